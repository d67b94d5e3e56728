"""The opponents of es_rl: how each is trained, and with which settings."""
