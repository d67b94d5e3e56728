"""What TensorBoard's dashboards show besides curves: custom charts, and the table of hyperparameters."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import MISSING
from typing import Any

from es_rl.config import leaves
from es_rl.run.curves.about import About
from es_rl.run.curves.metrics import description
from es_rl.run.terms import RunTerms

NO_COLUMNS = ("run", "chunk")  # keys that are no setting of the training itself
KINDS = {"int": "FLOAT64", "float": "FLOAT64", "bool": "BOOL"}  # of the columns of the table; others are strings


def layout(terms: RunTerms) -> dict[str, dict[str, list[Any]]]:
    """Return the custom charts, in the form of `SummaryWriter.add_custom_scalars`. Tags of lines are patterns."""
    return {
        "members": {"fitness: min, mean, max": ["Margin", ["fitness/mean", "fitness/min", "fitness/max"]]},
        "theta": {"score": ["Multiline", [f"^{terms.score}$", f"^{terms.best}$"]]},
        "time": {"parts of a generation": ["Multiline", ["^time/(rollout|members|update|evaluate)$"]]},
    }


def hyperparameters(about: About) -> Iterator[Any]:
    """Yield the summaries that make a run a row of the HParams dashboard: the columns, and the values of the row.

    The dashboard takes the columns from one of the runs that it finds. So they are the same for all runs of a kind: the
    keys on which theta depends, first those that do not have their default. `SummaryWriter.add_hparams` would make a
    second run.
    """
    from tensorboard.plugins.hparams import api_pb2, metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo

    values = _values(about)
    defaults, kinds = _declared(type(about.config))
    columns = [
        api_pb2.HParamInfo(
            name=name,
            type=api_pb2.DataType.Value(f"DATA_TYPE_{kinds.get(name) or _kind(values[name])}"),
            differs=name in values and values[name] != defaults.get(name),
        )
        for name in {**kinds, **values}
    ]
    score = about.terms.score
    metric = api_pb2.MetricInfo(name=api_pb2.MetricName(tag=score), description=description(score, score))
    experiment = api_pb2.Experiment(hparam_infos=columns, metric_infos=[metric])
    yield _summary(metadata.EXPERIMENT_TAG, HParamsPluginData(experiment=experiment))
    row = SessionStartInfo(group_name=about.name, start_time_secs=time.time())
    for name, value in values.items():
        kind = {bool: "bool_value", int: "number_value", float: "number_value"}.get(type(value), "string_value")
        setattr(row.hparams[name], kind, value)
    yield _summary(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=row))


def _summary(tag: str, data: Any) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import metadata

    told = metadata.create_summary_metadata(data)
    return Summary(value=[Summary.Value(tag=tag, metadata=told, tensor=metadata.NULL_TENSOR)])


def _values(about: About) -> dict[str, Any]:
    """Return the keys on which theta depends, with values that the table can hold. Keys that are None are left out.

    An entry of an open dictionary, such as an argument of the environment, is a key too.
    """
    free = {name for name, field in leaves(type(about.config)) if field.metadata["resumable"]} | {*NO_COLUMNS}
    return {name: _plain(value) for name, value in about.keys().items() if name not in free and value is not None}


def _declared(kind: type[Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the defaults of the keys on which theta depends, and the kinds of their columns."""
    defaults, kinds = {}, {}
    for name, field in leaves(kind):
        declared = str(field.type).removesuffix(" | None")
        if not field.metadata["resumable"] and name not in NO_COLUMNS and "dict" not in declared:
            default = field.default if field.default_factory is MISSING else field.default_factory()
            defaults[name], kinds[name] = _plain(default), KINDS.get(declared, "STRING")
    return defaults, kinds


def _plain(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float)) else str(value)


def _kind(value: Any) -> str:
    return KINDS.get(type(value).__name__, "STRING")
