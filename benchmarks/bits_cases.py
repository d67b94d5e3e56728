"""The trainings of `benchmarks/bits.py`. Each one sets all of its keys, because defaults and presets may change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Keys = dict[str, Any]

# Keys that several kinds of training share.
ES: Keys = {
    "es.noise": "dense", "es.rank": 1, "es.noise_reuse": 1, "es.freeze_vectors": False, "es.population": 16,
    "es.sigma": 0.05, "es.sigma_decay": 0.9, "es.shaping": "centered_ranks", "es.top": None, "es.max_failed": 0.5,
}  # fmt: skip
OPTIM: Keys = {
    "optim.name": "adam", "optim.lr": 0.02, "optim.lr_decay": 0.9, "optim.weight_decay": 0.01, "optim.momentum": 0.9,
    "optim.beta1": 0.9, "optim.beta2": 0.999, "optim.eps": 1e-8, "optim.max_speed": None,
}  # fmt: skip
RUN: Keys = {"generations": 3, "seed": 7, "checkpoint.every": 3, "checkpoint.keep": 1}
RL: Keys = {
    "env": "Hopper-v4", "backend": "auto", "policy": "mlp", "linear.squash": "clip", "linear.weights": "float",
    "mlp.hidden": "[16,16]", "mlp.activation": "tanh", "mlp.layer_norm": False, "mlp.squash": "tanh",
    "mlp.weights": "float", "transformer.width": 16, "transformer.layers": 1, "transformer.heads": 2,
    "transformer.context": 8, "transformer.squash": "tanh", "obs_norm": True, "obs_first": None, "obs_clip": 10.0,
    **ES, "es.steps": None, "es.population_max": None, "es.episodes": 1, "es.limit": 60, "es.limit_growth": 1.1,
    "es.reward_shift": 0.0, **OPTIM, **RUN,
    "workers": 0, "chunk": 4, "inference": "local", "device": "cpu", "eval.every": 2, "eval.episodes": 2,
    "video.every": -1,
}  # fmt: skip
# Judged steps, without the keys of members that play episodes.
JUDGED: Keys = {k: v for k, v in RL.items() if not k.startswith(("es.", "chunk"))} | {
    "es.segment": 24, "es.sigma": 0.004, "es.sigma_decay": 0.9, "es.max_failed": 0.5, "credit.simulations": 8,
    "credit.epochs": 2, "credit.batch": 48, "credit.clip": 0.2, "credit.explore": 0.37, "critic.hidden": "[16]",
    "critic.lr": 0.001, "critic.epochs": 2, "critic.batch": 64, "critic.discount": 0.99, "critic.gae": 0.95,
}  # fmt: skip
TEXT: Keys = {
    "ctx": 16, "batch": 4, "gpt.layers": 1, "gpt.heads": 2, "gpt.width": 16, **ES, "es.noise": "lowrank", **OPTIM,
    **RUN, "workers": 0, "chunk": 8, "eval.every": 0, "eval.bytes": 256, "eval.sample": 20, "corpus": "corpus.txt",
}  # fmt: skip
ADAMW: Keys = {k: v for k, v in TEXT.items() if k != "optim.name" and not k.startswith("es.")} | {"baseline": "adamw"}
LLM: Keys = {
    "model": "tiny", "data": "data.jsonl", "reward": "letters:high", "batch": 2, "max_new_tokens": 8, "modules": "[]",
    "mirrored": True, "dtype": "float32", "device": "cpu", **ES, "optim.lr": 0.01, "optim.lr_decay": 0.9,
    "optim.anchor": 0.0, **RUN, "workers": 0, "eval.every": 0,
}  # fmt: skip
# Files for the trainings: a text, prompts, a reward for the answers, and a program that uses `es_rl.Trainer`.
FILES = {
    "corpus.txt": "the cat sat on the mat, and the dog sat on the log.\n" * 60,
    "data.jsonl": "".join(f'{{"prompt": "say {i}:", "answer": "eee"}}\n' for i in range(20)),
    "letters.py": "def high(completions, **_):\n    return [float(sum(map(ord, text))) for text in completions]\n",
    "any_module.py": """import sys
import torch
from safetensors.torch import save_file
from torch import nn
import es_rl

noise, file = sys.argv[1:]
torch.manual_seed(1)
model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
x = torch.arange(160.0).reshape(32, 5).sin()


@es_rl.batched
def fitness(model, n):
    return -((model(x.repeat(n, 1)) - x[:, :1].repeat(n, 1)) ** 2).reshape(n, -1).mean(dim=1)


trainer = es_rl.Trainer(
    model, fitness, noise=noise, rank=2, population=16, sigma=0.05, optimizer="adam", lr=0.02, seed=7,
    shaping="centered_ranks", workers=0, chunk=8,
)
trainer.train(4)
save_file({name: value.detach().contiguous() for name, value in trainer.model.named_parameters()}, file)
""",
}


@dataclass(frozen=True)
class Case:
    """One training: a verb with its keys, or a Python file with its arguments."""

    verb: str
    keys: Keys = field(default_factory=dict)
    arguments: tuple[str, ...] = ()


def rl(**changes: Any) -> Case:
    """Return the training of an agent with some keys changed. Two underscores in a name stand for a dot."""
    return Case("train", RL | {name.replace("__", "."): value for name, value in changes.items()})


def _changed(keys: Keys, **changes: Any) -> Keys:
    return keys | {name.replace("__", "."): value for name, value in changes.items()}


CASES: dict[str, Case] = {
    "linear": rl(policy="linear", es__shaping="zscore", es__top=4, optim__name="sgd", es__reward_shift=1.0),
    "linear, ternary weights": rl(policy="linear", linear__weights="ternary", optim__name="clipup"),
    "mlp": rl(es__episodes=2),
    "mlp, two workers": rl(es__episodes=2, workers=2),
    "mlp, orthogonal": rl(es__noise="orthogonal", optim__name="adamw", mlp__layer_norm=True),
    "mlp, lowrank": rl(es__noise="lowrank", es__rank=2, es__noise_reuse=2),
    "mlp, general backend": rl(backend="gymnasium", env="HalfCheetah-v4"),
    "mlp, fast backend": rl(backend="auto", env="HalfCheetah-v4"),
    "mlp, discrete actions": rl(env="CartPole-v1", es__steps=2000, es__population_max=32),
    "mlp, first numbers, central": rl(env="Humanoid-v4", obs_first=45, inference="central", workers=1, es__limit=20),
    "mlp, int8 weights, lowrank": rl(mlp__weights="int8", es__noise="lowrank", es__freeze_vectors=True),
    "transformer": rl(policy="transformer", es__limit=30),
    "transformer, orthogonal": rl(policy="transformer", es__limit=30, es__noise="orthogonal"),
    "transformer, lowrank": rl(policy="transformer", es__limit=30, es__noise="lowrank"),
    "transformer, lowrank, central": rl(
        policy="transformer", es__limit=30, es__noise="lowrank", inference="central", workers=1
    ),
    "judged steps": Case("train", JUDGED),
    "judged steps, two workers": Case("train", JUDGED | {"workers": 2}),
    "judged steps, int8 weights": Case("train", JUDGED | {"mlp.weights": "int8", "mlp.layer_norm": True}),
    "text": Case("text", TEXT),
    "text, dense": Case("text", _changed(TEXT, es__noise="dense")),
    "text, adamw": Case("text", ADAMW),
    "language model": Case("llm", LLM),
    "language model, lowrank": Case("llm", _changed(LLM, es__noise="lowrank")),
    "trainer": Case("any_module.py", arguments=("dense",)),
    "trainer, lowrank": Case("any_module.py", arguments=("lowrank",)),
}
