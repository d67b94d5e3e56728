"""A run: its directory, checkpoints, log and screen, and the loop that every kind of training shares."""
