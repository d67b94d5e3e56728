"""The pieces of a rollout: what a chunk is, chunks side by side, sums of observations."""
