"""The keys of the verb that exports a policy."""

from __future__ import annotations

from dataclasses import dataclass

from es_rl.keys import key
from es_rl.rl.config import RunConfig

NAMES = ("onnx", "torch", "numpy")  # of the formats


@dataclass(frozen=True)
class ExportConfig(RunConfig):
    out: str = key(
        "", "file to write; beside it, a .json of the same name says what its numbers mean", path=True, bare="output"
    )
    format: str = key("auto", "kind of file; auto: by its suffix, .onnx, .pt2 or .npz", choices=("auto", *NAMES))
