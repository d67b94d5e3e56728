"""Whom es_rl is compared with: how each is trained, with what settings."""
