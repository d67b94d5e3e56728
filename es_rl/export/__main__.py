"""Write a run's policy as one file for a program without es_rl, and what such a program must know beside it.

python -m es_rl.export run=runs/HalfCheetah-v5/… out=policy.onnx
"""

from __future__ import annotations

from collections.abc import Sequence

from es_rl import cli
from es_rl.config import help_text, parse
from es_rl.export.config import ExportConfig

USAGE = "python -m es_rl.export run=RUN out=FILE [key=value …]   a trained policy as a file for other programs"
KEYS = (ExportConfig,)  # for completion in a shell


def main(argv: Sequence[str]) -> int:
    """Run the verb; return the exit code."""
    if cli.asks_for_help(argv):
        return cli.show(help_text(ExportConfig, USAGE))
    config = parse(ExportConfig, argv)
    from es_rl.export.exporting import export  # imports torch: once the keys are right

    return cli.show(export(config))


if __name__ == "__main__":
    cli.run(main)
