"""The page about TensorBoard names every metric of the table in the code, with its tag and its aliases."""

import re
from pathlib import Path

from es_rl.run.curves.metrics import ALIASES, METRICS, known, tag_of

PAGE = (Path(__file__).parents[2] / "docs/guides/tensorboard.md").read_text()
SHOWN = {"eval/video", "eval/sample"}  # no numbers
PARTS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")}


def spans(cell):
    return re.findall(r"`([a-z_]+(?:/[\w]+)*)`", cell)


def rows(part, columns):
    """The cells of the tables of a part of the page that have so many columns."""
    found = [re.split(r" \| ", line.strip("| ")) for line in part.splitlines() if line.startswith("| ")]
    return [cells for cells in found if len(cells) == columns and "`" in "".join(cells)]


def test_the_page_explains_every_metric_and_no_other():
    named = {name for cells in rows(PARTS["All metrics of a policy's training"], 2) for name in spans(cells[0])}
    named |= {name for cells in rows(PARTS["What others add"], 3) for name in spans(cells[1])}
    assert {known(name)[0] for name in named - SHOWN} == set(METRICS)


def test_the_page_has_the_tags_and_aliases_of_the_code():
    tags, aliases = PARTS["Names in TensorBoard"].split("In runs of agents")
    told = {name: tag for cells in rows(tags, 2) for name, tag in zip(*map(spans, cells), strict=True)}
    moved = {name for name in METRICS if tag_of(name.replace("*", "NAME")) != name.replace("*", "NAME")}
    assert told == {name: tag_of(name) for name in (key.replace("*", "NAME") for key in moved)}
    second = {alias: name for cells in rows(aliases, 2) for name, alias in zip(*map(spans, cells), strict=True)}
    assert second == ALIASES
