"""Write a run's theta as a directory that `from_pretrained` loads."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from es_rl.es.restore import check_fit
from es_rl.llm import model as language
from es_rl.run import checkpoint as checkpoints
from es_rl.run import directory


def export(run: Path, out: Path, checkpoint: str = "last") -> None:
    """Write a checkpoint's theta to the directory `out`, which is replaced. Raises `CheckpointError`, `EnvError`."""
    directory.check_run(run)
    loaded = checkpoints.load(run, checkpoint)
    model, tokenizer = language.open_model(run / "start", "float32")
    check_fit(str(loaded.path), loaded.model, dict(model.named_parameters()), "model")
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(loaded.model.pop(name))
    writing = out.with_name(f".writing-{os.getpid()}-{out.name}")
    with directory.reporting(out, "Choose another place with out=DIRECTORY"):
        shutil.rmtree(writing, ignore_errors=True)
        model.save_pretrained(writing)  # type: ignore[operator]
        tokenizer.save_pretrained(writing)
        shutil.rmtree(out, ignore_errors=True)
        writing.rename(out)
