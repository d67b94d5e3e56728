"""Watch a run's policy act in a window in real time, and steer it with the keyboard.

python -m es_rl.play run=runs/quadruped
"""

from __future__ import annotations

from collections.abc import Sequence

from es_rl import cli
from es_rl.config import help_text, parse
from es_rl.play.steering import USUAL, explained
from es_rl.rl.config import PlayConfig

USAGE = f"""python -m es_rl.play run=RUN [key=value …]   watch a trained policy in a window, and steer it

Keys of the window; those of the command are for robots that are told one:
{explained(dict.fromkeys(USUAL))}
Other numbers of a command have the keys that are left: page up, page down, home, end. The keys of a run's robot are
listed when it starts. Close the window or press Ctrl-C to leave."""
KEYS = (PlayConfig,)  # for completion in a shell


def main(argv: Sequence[str]) -> int:
    """Run the verb; return the exit code."""
    if cli.asks_for_help(argv):
        return cli.show(help_text(PlayConfig, USAGE))
    config = parse(PlayConfig, argv)
    from es_rl.play.watch import watch  # imports torch: once the keys are right

    watch(config)
    return 0


if __name__ == "__main__":
    cli.run(main)
