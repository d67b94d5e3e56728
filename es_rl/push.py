"""Publish a run's policy on the Hugging Face Hub: weights, keys, a model card with a fresh evaluation, and the film.

python -m es_rl.push run=runs/HalfCheetah-v5/… repo=USER/NAME
"""

from __future__ import annotations

from collections.abc import Sequence

from es_rl import cli
from es_rl.config import help_text, parse
from es_rl.rl.config import PushConfig

USAGE = "python -m es_rl.push run=RUN repo=USER/NAME [key=value …]   publish a trained policy on the Hugging Face Hub"
KEYS = (PushConfig,)  # for completion in a shell


def main(argv: Sequence[str]) -> int:
    """Run the verb; return the exit code."""
    if cli.asks_for_help(argv):
        return cli.show(help_text(PushConfig, USAGE))
    config = parse(PushConfig, argv)
    from es_rl.rl.verbs.publishing import publish  # imports torch: once the keys are right

    publish(config)
    return 0


if __name__ == "__main__":
    cli.run(main)
