"""Checking one region: its trials, and the counterexample if one fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from graphwright.ir.record import NodeRecord
from graphwright.ir.targets import resolve_target
from graphwright.passes.validation.execute import mismatch, run, widened
from graphwright.passes.validation.leaves import LARGEST, Draw, describe
from graphwright.passes.validation.region import Region
from graphwright.passes.validation.trials import Bounds, Trial, additive_masks, assignments, trials

_UNINITIALISED = frozenset({"empty", "new_empty", "empty_like", "empty_strided", "empty_permuted"})


class Unchecked(Exception):
    """A region cannot be run by itself; says why."""


@dataclass(frozen=True)
class Counterexample:
    """Inputs on which a rewrite changes a value.

    Args:
        region: The region.
        trial: How the inputs are drawn.
        inputs: The draws and numbers by name.
        reason: What differs.
        value: Name of the value that differs.
    """

    region: Region
    trial: Trial
    inputs: Mapping[str, Any]
    reason: str
    value: str


def check(region: Region, state: Mapping[str, Any], bounds: Bounds, tolerance: float) -> Counterexample | None:
    """Run a region on all its trials.

    Raises:
        Unchecked: It cannot be run by itself.
    """
    _require_runnable(region)
    runnable: list[Mapping[str, int]] = []
    refusal = ""
    for sizes in assignments(region, bounds):
        try:
            _Side(region, state, Trial("", sizes)).before()
            runnable.append(sizes)
        except Unchecked:
            raise
        except Exception as error:
            refusal = f"{type(error).__name__}: {error}"
        if len(runnable) == 3:
            break
    if not runnable:
        raise Unchecked(f"it does not run at any of the sizes tried ({refusal[:200]})")
    for trial in trials(region, runnable, tolerance):
        found = _try(region, state, trial)
        if found:
            return found
    return None


def _try(region: Region, state: Mapping[str, Any], trial: Trial) -> Counterexample | None:
    side = _Side(region, state, trial)
    expected = side.before()
    try:
        actual = side.after()
    except Exception as error:
        return Counterexample(region, trial, side.inputs, f"{type(error).__name__}: {error}", region.pairs[0][1])
    for (_, new), a, b in zip(region.pairs, expected, actual, strict=True):
        reason = mismatch(a, b, trial.tolerance)
        if reason:
            return Counterexample(region, trial, side.inputs, reason, new)
    return None


class _Side:
    """Both sides of a region with the inputs of one trial."""

    def __init__(self, region: Region, state: Mapping[str, Any], trial: Trial) -> None:
        self.region, self.state, self.trial = region, state, trial
        self._additive = additive_masks(region) if trial.lowest is not None else set()
        records = {record.name: record for record in region.records() if _is_input(record, region)}
        self._seeds: dict[str, int] = {}
        self.inputs = {name: self._input(record) for name, record in records.items()}
        self.values = {name: self._value(value) for name, value in self.inputs.items()}

    def before(self) -> list[Any]:
        """The old values."""
        return self._run(self.region.before, [old for old, _ in self.region.pairs])

    def after(self) -> list[Any]:
        """The new values."""
        return self._run(self.region.after, [new for _, new in self.region.pairs])

    def _run(self, side: Mapping[str, NodeRecord], names: list[str]) -> list[Any]:
        nodes = [node for node in self.region.order(side, names) if node.name not in self.values]
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            values = run(nodes, self.values, self.trial.wide)
        return [values[name] if name in values else _number(name) for name in names]

    def _input(self, record: NodeRecord) -> Any:
        """A draw, a number, a constant of the state, or a tuple of draws."""
        if record.op == "get_attr" and isinstance(self.state.get(record.target), torch.Tensor):
            constant = self.state[record.target]
            if not isinstance(constant, torch.nn.Parameter) and not constant.is_meta:
                return constant.detach().cpu()
        seed = self._seeds.setdefault(record.target if record.op == "get_attr" else record.name, len(self._seeds))
        kind = describe(record.type, self.trial.sizes)
        if isinstance(kind, tuple):
            return tuple(self._draw(part, seed * 31 + i, record) for i, part in enumerate(kind))
        return self._draw(kind, seed, record)

    def _draw(self, kind: Any, seed: int, record: NodeRecord) -> Any:
        if not isinstance(kind, torch.Tensor):
            return kind
        if kind.numel() > LARGEST:
            raise Unchecked(f"%{record.name} has over {LARGEST} elements")
        scale = 1.0 if record.op == "get_attr" else self.trial.scale
        masked, lowest = self.trial.masked, self.trial.lowest if record.name in self._additive else None
        masked = masked and (lowest is not None or record.op == "placeholder" or kind.dtype == torch.bool)
        return Draw(tuple(kind.shape), kind.dtype, seed, scale, masked, lowest, self.trial.kept)

    def _value(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(self._value(part) for part in value)
        tensor = value.tensor() if isinstance(value, Draw) else value
        return widened(tensor) if self.trial.wide else tensor


def _is_input(record: NodeRecord, region: Region) -> bool:
    return record.name in region.leaves or record.op in ("get_attr", "placeholder")


def _number(text: str) -> Any:
    return {"True": True, "False": False, "None": None}.get(text) if text.isalpha() else float(text)


def _require_runnable(region: Region) -> None:
    for record in (*region.shared.values(), *region.before.values(), *region.after.values()):
        if record.op != "call_function":
            continue
        target = resolve_target(record.target)
        schema = getattr(target, "_schema", None)
        if isinstance(target, torch._ops.HigherOrderOperator):
            raise Unchecked(f"%{record.name} calls a graph")
        if schema is not None and schema.is_mutable:
            raise Unchecked(f"%{record.name} writes in place")
        if record.target.split(".")[1] in _UNINITIALISED:
            raise Unchecked(f"%{record.name} is not initialised")
        if _draws(record):
            raise Unchecked(f"%{record.name} is random")


def _draws(record: NodeRecord) -> bool:
    """Whether a call draws random numbers; inactive dropout does not."""
    op = resolve_target(record.target)
    if torch.Tag.nondeterministic_seeded not in getattr(op, "tags", ()):
        return False
    given = dict(zip((a.name for a in op._schema.arguments), record.args, strict=False)) | dict(record.kwargs)
    off = {"train": ("bool", "false"), "training": ("bool", "false"), "p": ("float", "0.0")}
    if "dropout_p" in (a.name for a in op._schema.arguments):
        return given.get("dropout_p", 0) not in (0, ("float", "0.0"))
    return not any(name in given and given[name] == value for name, value in off.items())
