"""Train a policy by evolution strategies.

python -m es_rl.train env=HalfCheetah-v5 minutes=4
python -m es_rl.train resume=runs/HalfCheetah-v5/… minutes=8
"""

from __future__ import annotations

from collections.abc import Sequence

from es_rl import cli
from es_rl.arguments.origins import NOWHERE
from es_rl.config import help_text
from es_rl.record import Films
from es_rl.rl.config import Config, parse_resume, read_train
from es_rl.run import CONFIG
from es_rl.run.resume import resumed, saved_keys

USAGE = """python -m es_rl.train env=ID [key=value …]           train a policy
python -m es_rl.train config=FILE [key=value …]      the same, starting from a YAML file of keys
python -m es_rl.train resume=RUN [key=value …]       go on with a run; stop rules may change

Ctrl-C or SIGTERM saves a checkpoint and leaves."""
KEYS = (Config,)  # for completion in a shell


def main(argv: Sequence[str]) -> int:
    """Run the verb; return the exit code."""
    if cli.asks_for_help(argv):
        return cli.show(help_text(Config, USAGE))
    run, keys = resumed(argv, Config)
    if run:
        config, origins = parse_resume(saved_keys(run, Config), keys, str(run / CONFIG)), NOWHERE
    else:
        config, origins = read_train(argv)
    from es_rl.rl.verbs.training import create, located_init, train  # imports torch: once the keys are right
    from es_rl.workers.machine import use_one_thread

    use_one_thread()
    config = config if run else located_init(config)
    command = cli.command("train", argv)
    train(config, run or create(config), command, Films, resumed=bool(run), origins=origins)
    return 0


if __name__ == "__main__":
    cli.run(main)
