"""Search for the settings of a training with Optuna's TPE. Stop hopeless trials at equal environment steps.

    python -m es_rl.sweep env=Hopper-v5 es.sigma=0.01..0.5:log optim.lr=0.005..0.2:log env_steps=500000 trials=40

The first trial has the default settings, so the best settings are at least as good on the sweep's seeds. Finished
trials are kept: the same command continues an interrupted sweep. It may run on several machines at a time if they share
the directory `out`. Give `out/best.yaml` as `config=` to a training.
"""

from __future__ import annotations

from collections.abc import Sequence

from es_rl import cli
from es_rl.config import help_text
from es_rl.rl.config import Config
from es_rl.sweep.config import SweepConfig, parse_sweep

USAGE = """python -m es_rl.sweep env=ID env_steps=N KEY=RANGE … [key=value …]   search for settings

Any key of training, or setting of another contender, may be given: as a range, KEY=0.01..0.5 or KEY=0.01..0.5:log, as
a choice, KEY=32,64,128, or as one value for all trials. The same command goes on where it was stopped."""
KEYS = (SweepConfig, Config)  # for completion in a shell


def main(argv: Sequence[str]) -> int:
    """Run the verb and return the exit code."""
    if cli.asks_for_help(argv):
        return cli.show(help_text(SweepConfig, USAGE))
    config, keys = parse_sweep(argv)
    from es_rl.sweep.search import search  # imports torch: once the keys are right

    return search(config, keys, argv)


if __name__ == "__main__":
    cli.run(main)
