"""Compare evolution strategies with PPO and others: the same cores, the same minutes, one report.

    python -m es_rl.compare env=Hopper-v5 minutes=5 seeds=3 against=ppo_fast,ppo,ars,random

The trainings run one after another, each with all processors: seed 0 of each contender, then seed 1 of each, …
Before the first training of an opponent, short trials find the threads and processes that make it fastest. All
contenders are evaluated alike: the deterministic, unperturbed policy with frozen normalisation plays the same fresh
episodes, in Gymnasium's own environment with its true rewards. Finished trainings are kept: the same command continues
an interrupted comparison.
"""

from __future__ import annotations

from collections.abc import Sequence

from es_rl import cli
from es_rl.compare.config import CompareConfig, parse_compare
from es_rl.config import help_text
from es_rl.rl.config import Config

USAGE = """python -m es_rl.compare env=ID [key=value …]   train by evolution strategies and by others, and report

Any key of training may be given too, such as es.population=256: it is es_rl's own."""
KEYS = (CompareConfig, Config)  # for completion in a shell


def main(argv: Sequence[str]) -> int:
    """Run the verb and return the exit code."""
    if cli.asks_for_help(argv):
        return cli.show(help_text(CompareConfig, USAGE))
    config, ours, resolved = parse_compare(argv)
    from es_rl.compare.comparison import compare  # imports torch: once the keys are right

    return compare(config, ours, resolved)


if __name__ == "__main__":
    cli.run(main)
