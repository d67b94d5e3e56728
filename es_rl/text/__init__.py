"""Training of a byte-level GPT on a text."""
