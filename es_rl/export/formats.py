"""The kinds of files that a policy can be written to, and what runs such a file again to check it."""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from es_rl.errors import EnvError, missing_extra, text_of
from es_rl.export import arrays, reader
from es_rl.export.stepped import Stepped

Array = NDArray[Any]
PACKAGES = ("onnx", "onnxruntime", "onnxscript")  # of the extra `export`
RECORDED = {"metadata_props", "doc_string"}  # where torch writes down how it came to each node


class Player(Protocol):
    """Acts as a file does, in episodes side by side that began together."""

    def step(self, observations: Array) -> Array:
        """Return actions for observations (n, O) of the first n episodes. n never grows."""

    def state(self) -> Sequence[Array]:
        """Return the memory of these episodes, in the order of the file's inputs; nothing if the file keeps it."""


@dataclass(frozen=True)
class Format:
    """One kind of file."""

    suffix: str
    write: Callable[[Stepped, spaces.Space[Any]], bytes]  # the contents of the file
    open: Callable[[bytes, Stepped, int], Player]  # run such contents again, for so many episodes


def names(count: int) -> tuple[list[str], list[str]]:
    """Return the names of the inputs and of the outputs of a policy whose memory is `count` tensors."""
    inputs = ["observation", *(f"state.{i}" for i in range(count))]
    return inputs, ["action", *(f"next_state.{i}" for i in range(count))]


def check_installed(name: str) -> None:
    """Raise `ResourceError` if a format needs libraries that are not installed."""
    missing = [library for library in PACKAGES if importlib.util.find_spec(library) is None] if name == "onnx" else []
    if missing:
        raise missing_extra(f"format=onnx needs {' and '.join(missing)}", "export")


class Flat:
    """A player for what is called with the memory and returns it."""

    def __init__(self, call: Callable[[Sequence[Array]], Sequence[Array]], stepped: Stepped, n: int) -> None:
        self._call = call
        self._state: list[Array] = [part.numpy() for part in stepped.memory.initial(n)]

    def step(self, observations: Array) -> Array:
        action, *after = self._call([observations, *(part[: len(observations)] for part in self._state)])
        self._state = list(after)
        return action

    def state(self) -> Sequence[Array]:
        return self._state


class Reader:
    """A player for arrays: the reader of the documentation, one for each episode."""

    def __init__(self, data: bytes, n: int) -> None:
        self._policies = [reader.Policy(io.BytesIO(data)) for _ in range(n)]

    def step(self, observations: Array) -> Array:
        return np.stack([np.asarray(act(row)) for act, row in zip(self._policies, observations, strict=False)])

    def state(self) -> Sequence[Array]:
        return ()


def _onnx(stepped: Stepped, action_space: spaces.Space[Any]) -> bytes:
    inputs, outputs = names(len(stepped.memory.meanings))
    with _traced():
        program: Any = torch.onnx.export(
            stepped, stepped.examples(), dynamo=True, verbose=False, input_names=inputs, output_names=outputs,
            dynamic_shapes=_rows(stepped, "batch"),
        )  # fmt: skip
    model = program.model_proto
    for part in [model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer,
                 *model.graph.input, *model.graph.output, *model.functions]:  # fmt: skip
        for name in RECORDED:
            part.ClearField(name)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _open_onnx(data: bytes, stepped: Stepped, n: int) -> Player:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    inputs, outputs = names(len(stepped.memory.meanings))
    return Flat(lambda given: session.run(outputs, dict(zip(inputs, given, strict=True))), stepped, n)


def _torch(stepped: Stepped, action_space: spaces.Space[Any]) -> bytes:
    with _traced():
        rows = _rows(stepped, torch.export.Dim("batch"))
        program = torch.export.export(stepped, stepped.examples(), dynamic_shapes=rows)
        program.example_inputs = None  # they would be pickled
        for node in program.graph_module.graph.nodes:
            node.meta.pop("stack_trace", None)  # paths of this machine
        file = io.BytesIO()
        torch.export.save(program, file)
    return file.getvalue()


def _open_torch(data: bytes, stepped: Stepped, n: int) -> Player:
    program = torch.export.load(io.BytesIO(data)).module()

    def call(given: Sequence[Array]) -> Sequence[Array]:
        with torch.inference_mode():
            return [part.numpy() for part in program(*(torch.from_numpy(part) for part in given))]

    return Flat(call, stepped, n)


def _rows(stepped: Stepped, name: Any) -> Any:
    """Return that the first dimension of all arguments of `forward` has any size."""
    state = tuple({0: name} for _ in stepped.memory.meanings)
    return ({0: name}, state) if state else ({0: name},)


@contextmanager
def _traced() -> Iterator[None]:
    """Raise `EnvError` for what cannot be traced, and keep torch from telling how it goes about it."""
    loud = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loud]
    try:
        for logger in loud:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    except ImportError as error:
        raise missing_extra(f"the installed libraries do not go together: {text_of(error)}", "export") from error
    except Exception as error:
        first: BaseException = error
        while first.__cause__ is not None:  # torch.onnx puts advice around the error that it met
            first = first.__cause__
        said = next((line.strip() for line in text_of(first).splitlines() if line.strip()), type(first).__name__)
        raise EnvError(f"the policy cannot be traced by torch.export: {said}") from error
    finally:
        for logger, level in zip(loud, levels, strict=True):
            logger.setLevel(level)


FORMATS = {
    "onnx": Format(".onnx", _onnx, _open_onnx),
    "torch": Format(".pt2", _torch, _open_torch),
    "numpy": Format(
        ".npz",
        lambda stepped, space: arrays.packed(arrays.arrays_of(stepped.policy, space)),
        lambda data, stepped, n: Reader(data, n),
    ),
}
