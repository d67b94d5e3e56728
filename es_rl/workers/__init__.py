"""Worker processes: their supervisor, what runs in them, and the machine that they run on."""
