"""Train a byte-level GPT on a text."""
