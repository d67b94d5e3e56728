"""Act with a policy that es_rl has exported as .npz. Needs NumPy alone; leave out what your policy does not use."""

import math
from collections import deque
from typing import Any

import numpy as np

Array = Any


def norm(x: Array) -> Array:
    x = x - x.mean()
    return x / np.sqrt((x * x).mean() + 1e-5)


def sigmoid(x: Array) -> Array:
    return (1 + np.tanh(x / 2)) / 2


def gru(x: Array, state: Array, w_ih: Array, w_hh: Array, b_ih: Array, b_hh: Array) -> Array:
    h = state[0]
    (r, z, n), (hr, hz, hn) = np.split(w_ih @ x + b_ih, 3), np.split(w_hh @ h + b_hh, 3)
    z, n = sigmoid(z + hz), np.tanh(n + sigmoid(r + hr) * hn)
    return [(1 - z) * n + z * h]


def lstm(x: Array, state: Array, w_ih: Array, w_hh: Array, b_ih: Array, b_hh: Array) -> Array:
    i, f, g, o = np.split(w_ih @ x + b_ih + w_hh @ state[0] + b_hh, 4)
    c = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(g)
    return [sigmoid(o) * np.tanh(c), c]


WEIGHTS = ("weight", "weight_ih", "weight_hh", "bias", "bias_ih", "bias_hh")
CELLS: dict[str, Any] = {"gru": gru, "lstm": lstm}
LAYERS: dict[str, Any] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "silu": lambda x: x * (1 + np.tanh(x / 2)) / 2,
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / 2**0.5)) / 2,
    "linear": lambda x, weight, bias: weight @ x + bias,
    "norm": lambda x, weight, bias: norm(x) * weight + bias,
}


class Policy:
    """policy(observation) is an action. Call reset() when an episode begins."""

    def __init__(self, path: Any) -> None:
        with np.load(path) as file:
            self.a = {name: file[name] for name in file}
        self.reset()

    def reset(self) -> None:
        blocks, context = map(int, self.a["memory"])
        self.past: list[Any] = [(deque(maxlen=context), deque(maxlen=context)) for _ in range(blocks)]
        self.state: Any = None  # of a GRU or an LSTM
        self.said: Array = np.zeros(self.a["outputs"], np.float32)

    def __call__(self, observation: Array) -> Any:
        a = self.a
        x = np.asarray(observation, np.float64).reshape(-1)[: len(a["scale"])] * a["scale"] + a["shift"]
        x = np.clip(x, -a["clip"], a["clip"]).astype(np.float32)
        y = self.transformer(x) if self.past else self.chain(x)
        if a["squash"] == "largest":
            return int(y.argmax() + a["start"])
        squashed = np.tanh(y) if a["squash"] == "tanh" else np.clip(y, -1, 1)
        return np.clip(a["center"] + a["reach"] * np.where(a["bounded"], squashed, y), a["low"], a["high"])

    def chain(self, x: Array) -> Array:
        for i, layer in enumerate(map(str, self.a["layers"])):
            weights = [self.a[f"{i}.{name}"] for name in WEIGHTS if f"{i}.{name}" in self.a]
            compute = CELLS.get(layer) or LAYERS[layer]
            if layer in CELLS:
                state = self.state or [np.zeros(weights[1].shape[1], np.float32)] * 2
                self.state = compute(x, state, *weights)
                x = self.state[0]
            else:
                x = compute(x, *weights)
        return x

    def transformer(self, x: Array) -> Array:
        a, slopes = self.a, self.a["slopes"][:, None]
        x = a["embed"] @ np.concatenate([x, self.said])
        for i, (keys, values) in enumerate(self.past):
            q, k, v = (a[f"{i}.qkv"] @ norm(x)).reshape(3, len(slopes), -1)
            keys.append(k)
            values.append(v)
            scores = np.einsum("hd,thd->ht", q, keys) / q.shape[1] ** 0.5 - slopes * np.arange(len(keys))[::-1]
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            seen = np.einsum("ht,thd->hd", weights / weights.sum(axis=1, keepdims=True), values)
            x = x + a[f"{i}.mix"] @ seen.reshape(-1)
            x = x + a[f"{i}.narrow"] @ np.maximum(a[f"{i}.wide"] @ norm(x), 0)
        y = a["out"] @ norm(x)
        self.said = np.float32(np.arange(len(y)) == y.argmax()) if a["squash"] == "largest" else np.tanh(y)
        return y
