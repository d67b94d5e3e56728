"""Search for settings: train with many of them, and stop the hopeless trials early."""
