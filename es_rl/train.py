"""Train a policy by evolution strategies.

    python -m es_rl.train env=HalfCheetah-v4 minutes=4
    python -m es_rl.train resume=runs/HalfCheetah-v4/… minutes=8

`es_rl.ES` does the same in Python.
"""

from __future__ import annotations

from collections.abc import Sequence

from es_rl import cli
from es_rl.config import help_text
from es_rl.learner.training import create, train
from es_rl.rl.config import Config, parse_resume, parse_train
from es_rl.run import directory
from es_rl.run.resume import saved_keys
from es_rl.workers.machine import use_one_thread

USAGE = """python -m es_rl.train env=ID [key=value …]           train a policy
python -m es_rl.train config=FILE [key=value …]      the same, starting from a YAML file of keys
python -m es_rl.train resume=RUN [key=value …]       go on with a run; stop rules may change

Ctrl-C or SIGTERM saves a checkpoint and leaves."""


def main(argv: Sequence[str]) -> int:
    """Run the verb; return the exit code."""
    if cli.asks_for_help(argv):
        return cli.show(help_text(Config, USAGE))
    resumed, keys = directory.resumed(argv)
    if resumed:
        config = parse_resume(saved_keys(resumed, Config), keys, str(resumed / "config.yaml"))
    else:
        config = parse_train(argv)
    use_one_thread()
    train(config, resumed or create(config), cli.command("train", argv), resumed=bool(resumed))
    return 0


if __name__ == "__main__":
    cli.run(main)
