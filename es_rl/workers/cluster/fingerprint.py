"""A fingerprint of how a processor computes: hashes of small fixed computations, of each kind that a rollout uses.

Libraries choose their instructions by the processor, and other instructions round differently. Two machines with the
same fingerprint may still differ in some larger computation; two with different ones do differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS = (1, 3, 16, 64)  # of the products: libraries choose kernels by shape
WIDE, NARROW = 376, 64
STEPS = 50  # of the physics
MODEL = """<mujoco><worldbody><geom type="plane" size="5 5 .1"/><body pos="0 0 1"><freejoint/>
<geom type="capsule" size=".1 .3"/><body pos="0 0 .4"><joint type="hinge" axis="0 1 0" damping="1"/>
<geom type="capsule" size=".08 .2"/></body></body></worldbody></mujoco>"""


def fingerprint() -> dict[str, str]:
    """Return the hash of each kind of computation by its name. To be called where one thread computes."""
    rng = np.random.Generator(np.random.Philox(key=1))
    x, w = rng.standard_normal((ROWS[-1], WIDE)), rng.standard_normal((WIDE, NARROW))
    return {
        "noise": _hash([x, rng.standard_normal(1000, np.float32), rng.integers(1000, size=100)]),
        "numpy": _hash(_numpy(x, w)),
        "torch": _hash(_torch(x, w)),
        "mujoco": _hash(_mujoco()),
    }


def differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Return the kinds of computation in which two fingerprints differ."""
    return [kind for kind in one if one[kind] != other.get(kind)]


def _hash(arrays: Iterable[NDArray[np.generic]]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:12]


def _numpy(x: NDArray[np.float64], w: NDArray[np.float64]) -> Iterable[NDArray[np.generic]]:
    pairs: list[tuple[NDArray[Any], NDArray[Any]]] = [(x, w), (x.astype(np.float32), w.astype(np.float32))]
    for a, b in pairs:
        for rows in ROWS:
            yield a[:rows] @ b
            yield np.einsum("ij,jk->ik", a[:rows, :8], b[:8])
        yield from (np.tanh(a), np.exp(a), np.sin(a), a.sum(axis=0), a.mean(axis=1), np.sqrt(np.abs(a)))


def _torch(x: NDArray[np.float64], w: NDArray[np.float64]) -> Iterable[NDArray[np.generic]]:
    import torch
    from torch.nn import functional

    with torch.inference_mode():
        a, b = torch.from_numpy(x.astype(np.float32)), torch.from_numpy(w.T.astype(np.float32)).contiguous()
        for rows in ROWS:
            yield functional.linear(a[:rows], b).numpy()
        y = functional.linear(a, b)
        heads = y.reshape(1, 4, -1, 16)
        yield functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True).numpy()
        for result in (y.tanh(), functional.gelu(y), y.softmax(-1), functional.layer_norm(y, (NARROW,)), y.exp()):
            yield result.numpy()


def _mujoco() -> Iterable[NDArray[np.generic]]:
    import mujoco

    model = mujoco.MjModel.from_xml_string(MODEL)
    data = mujoco.MjData(model)
    data.qvel[:] = 0.3
    for _ in range(STEPS):
        mujoco.mj_step(model, data)
    yield from (data.qpos, data.qvel, data.xpos)
