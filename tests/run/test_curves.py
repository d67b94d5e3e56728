"""TensorBoard's files: tags, names that other libraries use, meanings, and what the other dashboards show."""

from collections import Counter

import pytest
from conftest import records
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import metadata

from es_rl.plugins import Given
from es_rl.rl.config import Config
from es_rl.run.curves.about import About
from es_rl.run.curves.metrics import ALIASES, METRICS, known, tag_of
from es_rl.run.terms import RETURN
from es_rl.text.__main__ import main as text

JUDGED = ["env=InvertedPendulum-v4", "es.segment=8", "credit.simulations=4", "credit.batch=8"]


def read(run):
    return EventAccumulator(str(run), {"scalars": 0, "tensors": 0, "images": 0, "histograms": 0}).Reload()


@pytest.fixture
def kinds(train, tmp_path):
    """A short run of each kind."""
    (tmp_path / "c.txt").write_text("What I have written, I have written.\n" * 50)
    keys = ["corpus=c.txt", "run=text", "ctx=8", "gpt.width=8", "gpt.layers=1", "es.population=4", "generations=2"]
    assert text([*keys, "eval.every=1", "eval.sample=3", "eval.bytes=64", "workers=0"]) == 0
    short = ["generations=2", "eval.every=1"]
    return {
        "whole episodes": train(
            "env=es_rl/PointMass-v0", "policy=linear", "es.sigma=0.3", "es.population=4", *short, run="whole"
        ),
        "judged steps": train(*JUDGED, *short, run="judged"),
        "text": tmp_path / "text",
    }


def test_every_curve_has_a_meaning_and_company(kinds):
    """No group of a single card, in any kind of run; every metric is one of the table."""
    for run in kinds.values():
        board = read(run)
        tags = board.Tags()
        groups = Counter(tag.partition("/")[0] for tag in [*tags["scalars"], *tags["histograms"]])
        assert min(groups.values()) > 1, groups
        for tag in tags["scalars"]:
            assert board.SummaryMetadata(tag).summary_description, tag
        for line in records(run):
            assert [name for name in line if known(name)[0] not in METRICS and name != "eval/sample"] == []
    whole = read(kinds["whole episodes"])
    assert whole.SummaryMetadata("members/return_mean").summary_description == (
        "mean return of the members' episodes; unit: reward; metrics.jsonl: return/mean"
    )
    assert {"run/config/text_summary", "run/command/text_summary"} <= set(whole.Tags()["tensors"])

    lines = records(kinds["whole episodes"])
    assert lines[0]["generation"] == lines[0]["env_steps"] == 0 and "eval/return_mean" in lines[0]
    for alias, name in ALIASES.items():
        points = [(point.step, point.value) for point in whole.Scalars(alias)]
        assert points == [(line["env_steps"], pytest.approx(line[name])) for line in lines if name in line], alias
        assert name == "env_steps" or points == [(point.step, point.value) for point in whole.Scalars(tag_of(name))]
    assert not {*ALIASES} & {name for line in lines for name in line}
    assert not {*ALIASES} & set(read(kinds["text"]).Tags()["scalars"])

    (layout,) = whole.Tensors("custom_scalars__config__")
    (band,) = Layout.FromString(layout.tensor_proto.string_val[0]).category[0].chart[0].margin.series
    assert (band.lower, band.value, band.upper) == ("fitness/min", "fitness/mean", "fitness/max")

    for kind, score in (("whole episodes", "eval/return_mean"), ("text", "eval/bits_per_byte")):
        columns, row = table(read(kinds[kind]))
        assert [metric.name.tag for metric in columns.metric_infos] == [score]
        differing = {column.name for column in columns.hparam_infos if column.differs}
        assert {"es.population"} <= differing and not {"seed", "run", "generations", "chunk", "workers"} & differing
    columns, row = table(whole)
    assert row.hparams["es.sigma"].number_value == 0.3 and row.hparams["env"].string_value == "es_rl/PointMass-v0"
    assert row.hparams["obs_norm"].bool_value and row.group_name.endswith("/whole")
    assert set(row.hparams) <= {column.name for column in columns.hparam_infos}


def table(board):
    """The columns and the row of the HParams dashboard."""
    columns, row = (
        board.SummaryMetadata(tag).plugin_data.content
        for tag in (metadata.EXPERIMENT_TAG, metadata.SESSION_START_INFO_TAG)
    )
    return metadata.parse_experiment_plugin_data(columns), metadata.parse_session_start_info_plugin_data(row)


def test_readers_of_a_run_get_the_name_of_an_environment_from_python_and_not_the_environment(tmp_path):
    told = About(tmp_path, Config(env=Given(dict), policy=Given(list)), "", RETURN).keys()
    assert [(type(told[name]), told[name]) for name in ("env", "policy")] == [
        (str, "python:dict"),
        (str, "python:list"),
    ]


def test_tags_of_terms_have_the_names_of_the_terms():
    assert tag_of("reward/alive") == "members/reward/alive" and tag_of("ends/fallen") == "members/ends/fallen"
    assert tag_of("eval/reward/alive") == "eval/reward/alive" and tag_of("eval/reward_mean") == "eval/reward_mean"
    assert tag_of("somebody's own") == "somebody's own"
