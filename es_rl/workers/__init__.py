"""Worker processes: the pool, the code that runs in a worker, and facts about the machine."""
