"""Fine-tune a language model on any reward by evolution strategies: no gradients, no stored activations.

    python -m es_rl.llm model=DIR_OR_ID data=FILE.jsonl reward=conciseness minutes=30
    python -m es_rl.llm model=DIR_OR_ID data=FILE.jsonl reward=countdown+0.1*my_rewards:politeness
    python -m es_rl.llm model=DIR_OR_ID data=FILE.jsonl reward=countdown preset=es-at-scale
    python -m es_rl.llm export=RUN out=DIRECTORY

With low-rank noise, many members complete the prompts in one batch (EGGROLL: Sarkar et al. 2025, arXiv 2511.16652).
With dense noise, each member in turn is written over the model's weights (Qiu et al. 2025, arXiv 2509.24372).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from es_rl import cli
from es_rl.arguments.origins import COMMAND_LINE, NOWHERE, Origins
from es_rl.config import build, help_text, pairs
from es_rl.errors import ConfigError, lookup
from es_rl.es.config import EPISODIC, refuse_episodic
from es_rl.llm.config import DEFAULTS, PRESETS, ExportConfig, LlmConfig
from es_rl.run import CONFIG, directory
from es_rl.run.resume import resumed, resumed_config, saved_keys

USAGE = """python -m es_rl.llm model=DIR_OR_ID data=FILE.jsonl reward=NAME [key=value …]   fine-tune a language model
python -m es_rl.llm resume=RUN [key=value …]          go on with a run; stop rules may change
python -m es_rl.llm export=RUN out=DIRECTORY          a run's newest theta, for from_pretrained; or checkpoint=best

data: one JSON object a line, with a prompt (a string, or chat messages) and columns that the reward is given.
reward: countdown, conciseness, exact_match, or module:function with TRL's signature; several as a+0.1*b.
Other defaults than those below: es.noise=lowrank es.population=32 es.sigma=0.005 es.shaping=zscore;
preset=es-at-scale (as published): es.noise=dense mirrored=false es.population=30 es.sigma=0.001."""
KEYS = (LlmConfig, ExportConfig)  # for completion in a shell


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    if cli.asks_for_help(argv):
        return cli.show(help_text(LlmConfig, USAGE, without=[f"es.{name}" for name in EPISODIC]))
    given = pairs(argv, LlmConfig, ExportConfig)
    if "export" in given:
        asked = build(ExportConfig, [(given, "")])
        if not asked.out:
            raise ConfigError("out is missing: give a directory that is to be made.")
        if Path(asked.out).exists():
            raise ConfigError(f"out={asked.out}: exists. Give the path of a new directory.")
        from es_rl.llm.export import export  # imports torch: once the keys are right

        source, which = directory.find(asked.export, "export", "llm")
        export(source, Path(asked.out), which or asked.checkpoint)
        return cli.show(asked.out)
    run, keys = resumed(argv, LlmConfig, "llm")
    origins = NOWHERE
    if run:
        config = resumed_config(
            LlmConfig, saved_keys(run, LlmConfig), pairs(keys, LlmConfig), str(run / CONFIG), ["reward"]
        )
    else:
        refuse_episodic(given, "es.")
        preset = lookup(PRESETS, given.get("preset", ""), "preset")
        config = build(LlmConfig, [(DEFAULTS | preset, ""), (given, "")])
        of_preset = f"preset={given.get('preset')}"
        origins = Origins.joined([(DEFAULTS, "default for llm"), (preset, of_preset), (given, COMMAND_LINE)])
    from es_rl.llm.training import train  # imports torch: once the keys are right

    return train(config, cli.command("llm", argv), run, origins)


if __name__ == "__main__":
    cli.run(main)
