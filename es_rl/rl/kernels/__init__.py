"""Layers of policies in NumPy, each with the weights of many members: see `es_rl.rl.numpy_policy`."""
