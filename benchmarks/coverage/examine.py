"""Examine one architecture: build it, capture it, optimise it, compare it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import _pytree as pytree

from benchmarks.coverage import rows, softmaxes
from benchmarks.coverage.architectures import Architecture
from benchmarks.coverage.compare import compare
from benchmarks.coverage.rows import MissRow, Row
from benchmarks.coverage.tiny import NotBuilt, candidates, scale
from graphwright.frontends.capture import capture
from graphwright.frontends.example import example_inputs
from graphwright.frontends.tasks import task_of
from graphwright.ir.program import Program
from graphwright.passes.pipeline import Pipeline
from graphwright.passes.result import Result

_FACTORS = (5.0, 0.5, 0.5)  # each times the one before: 5, 2.5, 1.25

MakeInputs = Callable[[Any], dict[str, Any]]


class Stopped(Exception):
    """The examination cannot go on; carries the status of the row."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def examine(architecture: Architecture, make_inputs: MakeInputs | None = None) -> Row:
    """The row of one architecture.

    Args:
        architecture: What to examine.
        make_inputs: Gives the keyword arguments of a call for a model, where they cannot be made up from its config.
    """
    row = Row(architecture.model_type, architecture.class_name, architecture.head, versions=_versions())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _examine(architecture, row, make_inputs)
    except Stopped as stop:
        row.status, row.reason = stop.status, stop.reason
    return row


def _examine(architecture: Architecture, row: Row, make_inputs: MakeInputs | None) -> None:
    with _stage(row, "build", rows.NOT_BUILT):
        model, inputs = _runnable(architecture, row, make_inputs or _made_up)
        model = _double_where_possible(model, inputs)
        row.dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    with _stage(row, "capture", rows.NOT_CAPTURED):
        program = capture(model, make_inputs and make_inputs(model))
        row.dims = [dim.name for dim in program.dims]
    with _stage(row, "passes", rows.PASS_FAILED):
        result = Pipeline("default").run(program)
        _count(row, program, result.undo("fuse-attention"), result)
    with _stage(row, "compare", rows.CRASH):
        compare(row, model, program, result.program)


@contextmanager
def _stage(row: Row, name: str, failure: str) -> Iterator[None]:
    """Time a stage; what it raises ends the examination with a status."""
    start = time.perf_counter()
    try:
        yield
    except Stopped:
        raise
    except Exception as error:
        raise Stopped(failure, one_line(error)) from error
    finally:
        row.seconds[name] = round(time.perf_counter() - start, 2)


def _versions() -> str:
    import transformers

    return f"torch {torch.__version__.partition('+')[0]} and transformers {transformers.__version__}"


def _made_up(model: Any) -> dict[str, Any]:
    return example_inputs(model, task_of(model)).values


def _runnable(architecture: Architecture, row: Row, make_inputs: MakeInputs) -> tuple[Any, dict[str, Any]]:
    """The smallest model that runs on made-up inputs, weights scaled, and the inputs."""
    stop = Stopped(rows.NOT_BUILT, "")
    try:
        for tiny in candidates(architecture):
            row.level = tiny.level
            try:
                inputs = make_inputs(tiny.model)
            except Exception as error:
                stop = stop if stop.reason else Stopped(rows.NO_INPUTS, one_line(error))
                continue
            try:
                _finite_after_scaling(tiny.model, inputs)
                return tiny.model, inputs
            except Exception as error:
                stop = stop if stop.reason else Stopped(rows.NOT_EAGER, one_line(error))
    except NotBuilt as error:
        raise Stopped(rows.NOT_BUILT, one_line(error)) from error
    raise stop


def _finite_after_scaling(model: Any, inputs: dict[str, Any]) -> None:
    _run(model, inputs)
    for factor in _FACTORS:
        scale(model, factor)
        if _finite(_run(model, inputs)):
            return
    raise ValueError("the results are not finite")


def _run(model: Any, inputs: dict[str, Any]) -> Any:
    with torch.no_grad():
        return model(**{name: value.clone() if hasattr(value, "clone") else value for name, value in inputs.items()})


def _finite(result: Any) -> bool:
    """Whether nothing is infinite or undefined, but for -inf, which heads use to rule results out."""
    tensors = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
    return not any(t.isnan().any() or t.isposinf().any() for t in tensors if t.is_floating_point())


def _double_where_possible(model: Any, inputs: dict[str, Any]) -> Any:
    """The model in float64, unless it insists on float32 somewhere."""
    double = {
        name: value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }
    try:
        _run(model.double(), double)
    except Exception:
        return model.float()
    return model


def _count(row: Row, program: Program, canonical: Program, result: Result) -> None:
    row.nodes = (len(program.graph.nodes), len(result.program.graph.nodes))
    row.softmaxes = len(softmaxes.all_softmaxes(canonical))
    found = softmaxes.attention_softmaxes(canonical)
    left = softmaxes.attention_softmaxes(result.program)
    native, fused = softmaxes.fused_attentions(canonical), softmaxes.fused_attentions(result.program)
    row.native = sum(native.values())
    row.own = fused["graphwright.attention"]
    row.attentions, row.fused = len(found), len(found) - len(left)
    reasons = {miss.root.name: miss for miss in result.misses}
    for node in left:
        miss = reasons.get(node.name)
        site = softmaxes.site(node)
        reason = "the pass says nothing about it" if miss is None else miss.reason
        row.misses.append(MissRow(site, reason, "" if miss is None else miss.source))


def one_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
