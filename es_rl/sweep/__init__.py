"""Search for settings: many trainings of different keys, the hopeless ones stopped early."""
