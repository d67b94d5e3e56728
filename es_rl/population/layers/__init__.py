"""Layers that torch computes by one function, written so that they work for many members at once."""
