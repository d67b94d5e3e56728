"""Does evolution improve a policy that PPO has trained? Train PPO, then es_rl from its policy, and compare both.

    python benchmarks/after_ppo.py out=runs/after env=HalfCheetah-v4 ppo_steps=1000000 minutes=10 seeds=3

Any key of training may be given for es_rl. Run it again to go on after a stop. Prints for each seed the mean return of
20 episodes of PPO's policy and of es_rl's: as it is, and with Gaussian noise on normalised observations (standard
deviation 0.1) and on parameters (0.02), where a policy that is on an edge falls.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from es_rl import envs
from es_rl.cli import run
from es_rl.compare.opponents.ppo_fast import settings
from es_rl.config import pairs
from es_rl.rl.chunks import make_policy
from es_rl.rl.config import parse_train
from es_rl.rng import integer_seed, stream

EPISODES = 20
NOISE = {"as it is": (0.0, 0.0), "noise on observations": (0.1, 0.0), "noise on parameters": (0.0, 0.02)}


class Noisy(torch.nn.Module):
    """A normaliser whose numbers have noise."""

    def __init__(self, normalizer, std, source):
        super().__init__()
        self.normalizer, self._std, self._source = normalizer, std, source

    def forward(self, obs):
        x = self.normalizer(obs)
        return x + self._std * torch.from_numpy(self._source.standard_normal(tuple(x.shape), dtype=np.float32))


def score(config, tensors, observations, parameters):
    """Return the mean return of a policy with noise of these standard deviations."""
    spec = envs.probe(config.env, {}, 0)
    policy, source = make_policy(config, spec), stream(0, "evaluate", 1)
    policy.load_state_dict(tensors)
    for value in policy.parameters():
        value += parameters * torch.from_numpy(source.standard_normal(tuple(value.shape), dtype=np.float32))
    if observations:
        policy.normalizer = Noisy(policy.normalizer, observations, source)
    env, running = envs.make(config.env, EPISODES, obs_first=config.obs_first), np.arange(EPISODES)
    obs, total = env.reset(running, [integer_seed(0, "evaluate", i) for i in running]), np.zeros(EPISODES)
    while len(running):
        with torch.inference_mode():
            actions = policy(torch.from_numpy(obs))[0].numpy()
        obs, reward, terminated, truncated = env.step(running, actions)
        total[running] += np.nan_to_num(reward)
        goes_on = ~(terminated | truncated)
        obs, running = obs[goes_on], running[goes_on]
    return float(total.mean())


def train_ppo(env, steps, seed, out):
    """Train PPO unless it is done. Return the file of its policy."""
    if not (out / "policy.safetensors").exists():
        keys = ["name=ppo_fast", f"env={env}", f"env_steps={steps}", f"seed={seed}", f"out={out}"]
        subprocess.run([sys.executable, "-m", "es_rl.compare.baselines", *keys], check=True)
    return out / "policy.safetensors"


def train_es(keys, out, done):
    """Train es_rl unless it is done; go on with a training that was stopped."""
    if not done.exists():
        given = [f"resume={out}"] if (out / "config.yaml").exists() else [*keys, f"run={out}"]
        subprocess.run([sys.executable, "-m", "es_rl.train", *given], check=True, stdout=subprocess.DEVNULL)
        done.touch()
    return load_file(out / "checkpoints" / "last" / "model.safetensors")


def same_network(env):
    """Return the keys of a policy with the form of PPO's."""
    of_ppo = settings(env)
    widths = ",".join(map(str, of_ppo["policy_kwargs"]["net_arch"]))
    found = {"policy": "mlp", "mlp.hidden": f"[{widths}]", "mlp.squash": "clip", "obs_clip": "10"}
    return found | {"obs_norm": str(of_ppo["normalize"]).lower(), "obs_first": str(of_ppo["obs_first"] or "null")}


def main(argv):
    keys = pairs(argv)
    out, env, seeds = Path(keys.pop("out", "runs/after")), keys.pop("env", "HalfCheetah-v4"), int(keys.pop("seeds", 3))
    steps, minutes = int(keys.pop("ppo_steps", 1_000_000)), keys.pop("minutes", "10")
    keys = {"env": env, "minutes": minutes, "video.every": "-1"} | same_network(env) | keys
    given = [f"{name}={value}" for name, value in keys.items()]
    config = parse_train(given)
    print(f"| {env}, seed | {' | '.join(f'PPO, {name} | then es_rl' for name in NOISE)} |")
    print(f"|---{'|---|---' * len(NOISE)}|")
    for seed in range(100, 100 + seeds):
        file = train_ppo(env, steps, seed, out / f"ppo-{seed}")
        before = load_file(file)
        after = train_es([*given, f"init={file}", f"seed={seed}"], out / f"es-{seed}", out / f"es-{seed}.done")
        cells = [f"{score(config, tensors, *noise):.0f}" for noise in NOISE.values() for tensors in (before, after)]
        print(f"| {seed} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    run(main, sys.argv[1:])
