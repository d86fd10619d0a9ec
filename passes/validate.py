"""Validate: each rewrite is run before and after on inputs of its own, and a pass with a wrong one is rolled back."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from graphwright.ir.errors import MismatchError
from graphwright.ir.program import Program
from graphwright.ir.record import Rewrite
from graphwright.ir.symbols import symbols_of
from graphwright.passes.instrument import Instrument
from graphwright.passes.validation.check import Counterexample, Unchecked, check
from graphwright.passes.validation.history import History
from graphwright.passes.validation.script import script
from graphwright.passes.validation.trials import Bounds

if TYPE_CHECKING:
    from graphwright.passes.base import Pass
    from graphwright.passes.trace import PassRecord


class Validate(Instrument):
    """Translation validation: checks every rewrite by itself, in float64, on random and on adversarial inputs.

    The region of a rewrite (the nodes it removed, and those it added) is run with random parameters and inputs at up to
    three choices of sizes, with large values, with masks whose rows keep nothing, with -inf in additive masks, and,
    where half precision occurs, in its own dtypes up to their range. Masks and positions are run from the program's
    inputs on, so that a proof about them is tested too. Isomorphic rewrites are checked once. Where the old value is
    NaN the new one may be anything.

    What cannot be run by itself (writes in place, random ops, whole graphs, tensors over 2**24 elements) is counted,
    not checked: `record.notes["validated"]` has `checked`, `rewrites` and the reasons for the rest. `Numerics`, which
    runs the whole program, sees what this cannot, and the other way round.

    Costs about 0.25 s of one core for canonicalize, fuse-attention and merge-linears on BERT-base (128 rewrites, 24 of
    them distinct), 7 % of the time of the capture. It grows with the number of distinct rewrites and the size of their
    weights, not with the number of layers.

    Args:
        rtol: Allowed difference in float64, relative to the largest magnitude. What a fused op computes with a constant
            that the model cut short differs by less than 1e-7.
        folder: Where to write a script that reproduces a failure; None only attaches it to the error, as
            `error.reproducer`.
    """

    def __init__(self, rtol: float = 1e-7, folder: str | Path | None = None) -> None:
        self.rtol, self.folder = rtol, Path(folder) if folder is not None else None
        self._bounds: Bounds = {}
        self._program: Program | None = None
        self._passing: dict[str, Any] = {}

    def start(self, program: Program) -> None:
        """Read the ranges of the dimensions."""
        self._bounds, self._program = bounds_of(program), program

    def before_pass(self, pass_: Pass, program: Program) -> None:
        """Forget the constants of the pass before."""
        self._passing = {}

    def on_rewrite(self, rewrite: Rewrite) -> None:
        """Keep new constants, which a later rewrite of the same pass may drop again."""
        state = self._program.state if self._program is not None else {}
        names = [record.target for record in rewrite.added if record.op == "get_attr"]
        self._passing.update((name, state[name]) for name in names if name in state)

    def after_pass(self, pass_: Pass, program: Program, record: PassRecord) -> None:
        """Check the rewrites of the pass.

        Raises:
            MismatchError: Names rule, site and source line; the pass is undone.
        """
        if not record.rewrites or pass_.approximate:
            return
        state = self._passing | program.state
        parameters = [name for name, value in state.items() if isinstance(value, torch.nn.Parameter)]
        history = History(record.before.nodes, parameters)
        seen: dict[Hashable, Unchecked | None] = {}
        unchecked: list[str] = []
        for rewrite in record.rewrites:
            outcome = self._check(history, rewrite, state, seen)
            history.advance(rewrite)
            if isinstance(outcome, Counterexample):
                self._fail(outcome)
            elif outcome is not None:
                unchecked.append(f"{rewrite.rule} at {rewrite.site}: {outcome}")
        record.notes["validated"] = {
            "rewrites": len(record.rewrites),
            "checked": sum(reason is None for reason in seen.values()),
            "unchecked": list(dict.fromkeys(unchecked)),
        }

    def _check(
        self, history: History, rewrite: Rewrite, state: dict[str, Any], seen: dict[Hashable, Unchecked | None]
    ) -> Counterexample | Unchecked | None:
        region = history.region(rewrite)
        if region is None:
            return None
        key = region.key(lambda name: _constant(state.get(name)))
        if key in seen:
            return seen[key]
        try:
            found = check(region, state, self._bounds, self.rtol)
        except Unchecked as reason:
            seen[key] = reason
            return reason
        seen[key] = None
        return found

    def _fail(self, found: Counterexample) -> None:
        rewrite, text = found.region.rewrite, script(found)
        place = ", ".join(part for part in (rewrite.site, rewrite.source) if part)
        error = MismatchError(
            f"rule {rewrite.rule} changes a value: %{found.value}: {found.reason}",
            at=place or None,
            why=f"tried on {found.trial.label}, sizes {dict(found.trial.sizes)}",
            remedies=["run the script in error.reproducer to see it", "leave the pass out of the pipeline"],
        )
        error.reproducer = text  # type: ignore[attr-defined]
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / f"reproduce_{rewrite.rule}.py").write_text(text, encoding="utf-8")
        raise error


def _constant(value: Any) -> Hashable:
    """Equal for constants that are drawn alike: parameters are, buffers are only if they are the same tensor."""
    if not isinstance(value, torch.Tensor) or isinstance(value, torch.nn.Parameter) or value.is_meta:
        return None
    return value.item() if value.numel() == 1 and not value.is_complex() else id(value)


def bounds_of(program: Program) -> Bounds:
    """Smallest, largest and example size of each dimension, by the name that types use."""
    names = program.dim_names()
    bounds = {names.get(info.name, info.name): (max(info.min, 1), info.max, info.hint) for info in symbols_of(program)}
    for dim in program.dims:
        _, high, hint = bounds.get(dim.name, (1, None, 4))
        bounds[dim.name] = (max(dim.min, 1), dim.max if high is None else high, hint)
    return bounds
