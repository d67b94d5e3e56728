"""Evaluate a run's policy: fresh seeds, original rewards, no perturbation. The last line of stdout is a JSON object.

python -m es_rl.evaluate run=runs/HalfCheetah-v5/… episodes=20 seed=0
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from es_rl import cli
from es_rl.config import help_text, parse
from es_rl.rl.config import EvaluateConfig

USAGE = "python -m es_rl.evaluate run=RUN [key=value …]   returns of a trained policy, as JSON"
KEYS = (EvaluateConfig,)  # for completion in a shell


def main(argv: Sequence[str]) -> int:
    """Run the verb; return the exit code."""
    if cli.asks_for_help(argv):
        return cli.show(help_text(EvaluateConfig, USAGE))
    config = parse(EvaluateConfig, argv)
    from es_rl.rl.verbs.evaluation import evaluate, summary  # imports torch: once the keys are right

    found = evaluate(config)
    return cli.show(f"{summary(found)}\n{json.dumps(found)}")


if __name__ == "__main__":
    cli.run(main)
