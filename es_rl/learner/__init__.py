"""Train agents from Python: `es_rl.ES`, in the habits of Stable-Baselines3."""
