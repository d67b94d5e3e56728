"""The hyperparameters of RL-Zoo (rl-baselines3-zoo) for the opponents of es_rl, by environment."""

from __future__ import annotations

from typing import Any

# hyperparams/ppo.yml (the -v4 ids or, where there are none, -v2). `lin X`: falls linearly from X to zero over the
# training. Observations and rewards are normalised, unless `normalize` is False.
BIG = {
    "log_std_init": -2,
    "ortho_init": False,
    "activation_fn": "ReLU",
    "net_arch": {"pi": [256, 256], "vf": [256, 256]},
}
PPO: dict[str, dict[str, Any]] = {
    "Ant": {},
    "HalfCheetah": {
        "batch_size": 64, "n_steps": 512, "gamma": 0.98, "learning_rate": 2.0633e-05, "ent_coef": 0.000401762,
        "clip_range": 0.1, "n_epochs": 20, "gae_lambda": 0.92, "max_grad_norm": 0.8, "vf_coef": 0.58096,
        "policy_kwargs": BIG,
    },
    "Hopper": {
        "batch_size": 32, "n_steps": 512, "gamma": 0.999, "learning_rate": 9.80828e-05, "ent_coef": 0.00229519,
        "clip_range": 0.2, "n_epochs": 5, "gae_lambda": 0.99, "max_grad_norm": 0.7, "vf_coef": 0.835671,
        "policy_kwargs": BIG,
    },
    "Humanoid": {
        "batch_size": 256, "n_steps": 512, "gamma": 0.95, "learning_rate": 3.56987e-05, "ent_coef": 0.00238306,
        "clip_range": 0.3, "n_epochs": 5, "gae_lambda": 0.9, "max_grad_norm": 2, "vf_coef": 0.431892,
        "policy_kwargs": BIG,
    },
    "HumanoidStandup": {
        "batch_size": 32, "n_steps": 512, "gamma": 0.99, "learning_rate": 2.55673e-05, "ent_coef": 3.62109e-06,
        "clip_range": 0.3, "n_epochs": 20, "gae_lambda": 0.9, "max_grad_norm": 0.7, "vf_coef": 0.430793,
        "policy_kwargs": BIG,
    },
    "InvertedDoublePendulum": {
        "batch_size": 512, "n_steps": 128, "gamma": 0.98, "learning_rate": 0.000155454, "ent_coef": 1.05057e-06,
        "clip_range": 0.4, "n_epochs": 10, "gae_lambda": 0.8, "max_grad_norm": 0.5, "vf_coef": 0.695929,
    },
    "InvertedPendulum": {
        "batch_size": 64, "n_steps": 32, "gamma": 0.999, "learning_rate": 0.000222425, "ent_coef": 1.37976e-07,
        "clip_range": 0.4, "n_epochs": 5, "gae_lambda": 0.9, "max_grad_norm": 0.3, "vf_coef": 0.19816,
    },
    "Reacher": {
        "batch_size": 32, "n_steps": 512, "gamma": 0.9, "learning_rate": 0.000104019, "ent_coef": 7.52585e-08,
        "clip_range": 0.3, "n_epochs": 5, "gae_lambda": 1.0, "max_grad_norm": 0.9, "vf_coef": 0.950368,
    },
    "Swimmer": {
        "gamma": 0.9999, "n_envs": 4, "n_steps": 1024, "batch_size": 256, "learning_rate": 6e-4, "gae_lambda": 0.98,
    },
    "Walker2d": {
        "batch_size": 32, "n_steps": 512, "gamma": 0.99, "learning_rate": 5.05041e-05, "ent_coef": 0.000585045,
        "clip_range": 0.1, "n_epochs": 20, "gae_lambda": 0.95, "max_grad_norm": 1, "vf_coef": 0.871923,
    },
    "CartPole": {
        "n_envs": 8, "n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20,
        "ent_coef": 0.0, "learning_rate": "lin 0.001", "clip_range": "lin 0.2", "normalize": False,
    },
    "Acrobot": {"n_envs": 16, "n_steps": 256, "gae_lambda": 0.94, "gamma": 0.99, "n_epochs": 4, "ent_coef": 0.0},
    "MountainCar": {"n_envs": 16, "n_steps": 16, "gae_lambda": 0.98, "gamma": 0.99, "n_epochs": 4, "ent_coef": 0.0},
    "MountainCarContinuous": {
        "batch_size": 256, "n_steps": 8, "gamma": 0.9999, "learning_rate": 7.77e-05, "ent_coef": 0.00429,
        "clip_range": 0.1, "n_epochs": 10, "gae_lambda": 0.9, "max_grad_norm": 5, "vf_coef": 0.19, "use_sde": True,
        "policy_kwargs": {"log_std_init": -3.29, "ortho_init": False},
    },
    "Pendulum": {
        "n_envs": 4, "n_steps": 1024, "gae_lambda": 0.95, "gamma": 0.9, "n_epochs": 10, "ent_coef": 0.0,
        "learning_rate": 1e-3, "clip_range": 0.2, "use_sde": True, "sde_sample_freq": 4, "normalize": False,
    },
}  # fmt: skip
# hyperparams/ars.yml. Observations are normalised, unless `normalize` is False.
SMALL = {
    "policy": "MlpPolicy", "learning_rate": 0.018, "n_delta": 4, "n_top": 1, "delta_std": 0.1, "zero_policy": False,
    "policy_kwargs": {"net_arch": [16]},
}  # fmt: skip
ARS: dict[str, dict[str, Any]] = {
    "Swimmer": {"learning_rate": 0.02, "delta_std": 0.01, "n_delta": 1, "n_top": 1, "normalize": False},
    "Hopper": {"learning_rate": 0.01, "delta_std": 0.025, "n_delta": 8, "n_top": 4, "alive_bonus_offset": -1},
    "HalfCheetah": {"learning_rate": 0.02, "delta_std": 0.03, "n_delta": 32, "n_top": 4},
    "Walker2d": {"learning_rate": 0.03, "delta_std": 0.025, "n_delta": 40, "n_top": 30, "alive_bonus_offset": -1},
    "Ant": {"learning_rate": 0.015, "delta_std": 0.025, "n_delta": 60, "n_top": 20, "alive_bonus_offset": -1},
    "Humanoid": {"learning_rate": 0.02, "delta_std": 0.0075, "n_delta": 256, "n_top": 256, "alive_bonus_offset": -5},
    "CartPole": {"n_delta": 2, "normalize": False},
    "Pendulum": SMALL,
    "Acrobot": SMALL,
    "MountainCar": {**SMALL, "n_delta": 8},
    "MountainCarContinuous": {**SMALL, "delta_std": 0.2},
}
# hyperparams/sac.yml.
SAC: dict[str, dict[str, Any]] = {
    **{name: {"learning_starts": 10_000} for name in ("HalfCheetah", "Ant", "Hopper", "Walker2d", "Humanoid")},
    "Swimmer": {"learning_starts": 10_000, "gamma": 0.9999},
    "Pendulum": {"learning_rate": 1e-3},
    "MountainCarContinuous": {
        "learning_rate": 3e-4, "buffer_size": 50_000, "batch_size": 512, "ent_coef": 0.1, "train_freq": 32,
        "gradient_steps": 32, "gamma": 0.9999, "tau": 0.01, "learning_starts": 0, "use_sde": True,
        "policy_kwargs": {"log_std_init": -3.67, "net_arch": [64, 64]},
    },
}  # fmt: skip
