"""Draw the curves of runs: a PNG, and a page that holds all that it shows and opens in any browser.

    python -m es_rl.plot run=runs/cheetah
    python -m es_rl.plot runs/seeds/* out=seeds.png

Runs that differ only in their seed become one line with a band.
"""

from __future__ import annotations

from collections.abc import Sequence

from es_rl import cli
from es_rl.config import help_text
from es_rl.plot.config import PlotConfig, parse_plot

KEYS = (PlotConfig,)  # for completion in a shell
USAGE = """python -m es_rl.plot run=RUN[,RUN…] [key=value …]   the curves of runs, as PNG and HTML
python -m es_rl.plot RUN … [key=value …]             the same

RUN is a run directory, or a folder of runs. Runs that differ only in their seed become one line with a band."""


def main(argv: Sequence[str]) -> int:
    """Run the verb; return the exit code."""
    if cli.asks_for_help(argv):
        return cli.show(help_text(PlotConfig, USAGE))
    config = parse_plot(argv)
    from es_rl.plot import files  # imports torch: only once the keys are right

    return cli.show(files.write(config))


if __name__ == "__main__":
    cli.run(main)
