"""Settings of the documentation site: `python -m sphinx -W -q -b html docs docs/_build/html`.

`reference/keys.md` is written at each build, from the same declarations as `--help`; a test says if it is old.
"""

import dataclasses
import importlib
import re
from pathlib import Path

import es_rl
from es_rl.config import leaves
from es_rl.es.config import EPISODIC
from es_rl.llm.config import DEFAULTS as LLM
from es_rl.text.config import DEFAULTS as TEXT

project = "es_rl"
author = "the es_rl developers"
version = release = es_rl.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "es_rl"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = html_copy_source = False

myst_heading_anchors = 3
default_role = "code"  # docstrings write `names` as Markdown does
autodoc_member_order = "bysource"
autodoc_use_type_comments = False
python_use_unqualified_type_names = True
maximum_signature_line_length = 90

NO_EPISODES = tuple(f"es.{name}" for name in EPISODIC)
# Verb → what it does, where its keys are declared, those that it refuses, and its own defaults.
VERBS = {
    "train": ("Train a policy", "rl.config:Config", (), {}),
    "evaluate": ("Evaluate a policy", "evaluate:EvaluateConfig", (), {}),
    "record": ("Film a policy", "record:RecordConfig", (), {}),
    "plot": ("Draw curves", "plot.config:PlotConfig", (), {}),
    "play": ("Watch and steer", "play.__main__:PlayConfig", (), {}),
    "push": ("Publish a policy", "rl.config:PushConfig", (), {}),
    "export": ("Export a policy", "export.config:ExportConfig", (), {}),
    "compare": ("Compare with others", "compare.config:CompareConfig", (), {}),
    "compare.suite": ("Put comparisons together", "compare.suite:SuiteConfig", (), {}),
    "compare.baselines": ("Train one of the others", "compare.config:BaselineConfig", (), {}),
    "sweep": ("Search for settings", "sweep.__main__:SweepConfig", (), {}),
    "text": ("Train a GPT on text", "text.config:TextConfig", NO_EPISODES, TEXT),
    "llm": ("Fine-tune a language model", "llm.config:LlmConfig", NO_EPISODES, LLM),
}
HUGE = 1e15  # an upper bound that nobody meets
HEAD = """# Keys

Every setting is a key, given as `key=value`. `python -m es_rl.VERB --help` shows the same keys on the terminal. A key
in a group has the group's name in front: `es.sigma=0.1`. A list is written `64,64`, a whole number also
`1e6`, a missing value `null`. A key
marked with ↻ may change when a run goes on ([resuming](../guides/resuming.md)).

Besides the tables: `resume=RUN` (train, text, llm) goes on with a run, `config=FILE` (train) starts from a file of
keys, and `export=RUN out=DIRECTORY checkpoint=last` (llm) writes a model.
"""


def declared(verb):
    """Return the dataclass that declares the keys of a verb."""
    module, _, name = VERBS[verb][1].partition(":")
    return getattr(importlib.import_module(f"es_rl.{module}"), name)


def keys_page():
    """Return reference/keys.md: for each verb a table of its own keys, and one for each group of keys."""
    parts = [HEAD]
    for verb, (title, _, without, defaults) in VERBS.items():
        kind, tables = declared(verb), {}
        about = {f.name: f.metadata["help"] for f in dataclasses.fields(kind)}
        for name, field in leaves(kind):
            if name not in without:
                tables.setdefault(name.rpartition(".")[0], []).append(_row(name, field, defaults))
        parts.append(f"## {title}: `es_rl.{verb}`\n")
        for group, rows in tables.items():
            parts += [f"### `{group}`: {about[group]}\n"] if group else []
            parts.append("\n".join(["| key | type | default | range | meaning |", "|---|---|---|---|---|", *rows, ""]))
    return "\n".join(parts)


def _row(name, field, defaults):
    rule = field.metadata
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    default = defaults.get(name, default)
    default = ",".join(map(str, default)) if isinstance(default, list) else default
    shown = "" if default in ("", None, {}) else f"`{default}`"
    bounds = (("low", "≥"), ("above", ">"), ("high", "≤"), ("below", "<"))
    limits = [f"{sign} {rule[bound]:g}" for bound, sign in bounds if rule[bound] is not None and rule[bound] < HUGE]
    limits = [", ".join(f"`{choice}`" for choice in rule["choices"] if choice)] if rule["choices"] else limits
    kind = str(field.type).removesuffix(" | None").partition("[str")[0]
    cells = [f"`{name}`", kind, shown, " and ".join(limits), rule["help"] + "\N{NO-BREAK SPACE}↻" * rule["resumable"]]
    return (
        "| " + " | ".join(cell if "`" in cell else re.sub(r"([\\*_\[\]<>|])", r"\\\1", cell) for cell in cells) + " |"
    )


def write_keys(app):
    """Write reference/keys.md, unless it is there as it should be."""
    path, text = Path(app.srcdir) / "reference" / "keys.md", keys_page()
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def setup(app):
    """Let Sphinx write the page of the keys before it reads the pages."""
    app.connect("builder-inited", write_keys)
