"""Train a byte-level GPT on a text by evolution strategies: no gradient, any score.

    python -m es_rl.text corpus=FILE minutes=15
    python -m es_rl.text corpus=FILE model=RUN seed=1 minutes=15     # start from a trained GPT, as a new run
    python -m es_rl.text corpus=FILE reward=my_rewards:politeness    # score generated text instead of the loss
    python -m es_rl.text corpus=FILE baseline=adamw minutes=15       # the same GPT by backpropagation, for comparison

All members of a generation see the same sequences. Each chunk of members takes one forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence

from es_rl import cli
from es_rl.arguments.origins import NOWHERE
from es_rl.config import help_text
from es_rl.es.config import EPISODIC
from es_rl.run import CONFIG
from es_rl.run.resume import resumed, saved_keys
from es_rl.text.config import ADAMW, DEFAULTS, TextConfig, parse_resume, read_new

USAGE = """python -m es_rl.text corpus=FILE [key=value …]   train a byte-level GPT
python -m es_rl.text resume=RUN [key=value …]    go on with a run; stop rules may change

Other defaults than those below: {}; with baseline=adamw
{}; a generation is one step on one batch.""".format(
    *(" ".join(f"{k}={v}" for k, v in d.items()) for d in (DEFAULTS, ADAMW))
)
KEYS = (TextConfig,)  # for completion in a shell


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    if cli.asks_for_help(argv):
        return cli.show(help_text(TextConfig, USAGE, without=[f"es.{name}" for name in EPISODIC]))
    run, keys = resumed(argv, TextConfig, "text")
    if run:
        config, origins = parse_resume(saved_keys(run, TextConfig), keys, str(run / CONFIG)), NOWHERE
    else:
        config, origins = read_new(argv)
    from es_rl.text.training import train  # imports torch: once the keys are right

    return train(config, cli.command("text", argv), run, origins)


if __name__ == "__main__":
    cli.run(main)
