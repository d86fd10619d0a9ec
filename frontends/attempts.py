"""The ways to call torch.export that are tried in turn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from graphwright.frontends import axes as ax


@dataclass(frozen=True)
class Attempt:
    """One way to call torch.export."""

    label: str
    axes: ax.Leaves
    strict: bool = False
    deferred: bool = False
    batched_experts: bool = False
    answers: bool = False
    all_items: bool = False
    spare_items: int = 0

    @property
    def copies_layers(self) -> bool:
        """Whether layers may be copied; where the source's lines are counted, all of them have to run."""
        return not (self.strict or self.answers or self.all_items)

    def results_computed(self) -> AbstractContextManager[Any]:
        """No cache of results with symbolic sizes: torch takes longer to make one again than to compute it."""
        import torch._dynamo.config as config

        return config.patch(fake_tensor_cache_enabled=False) if any(self.axes) else nullcontext()  # type: ignore[attr-defined]


def attempts(module: torch.nn.Module, axes: ax.Leaves, dynamic: Any, assume: bool) -> Iterator[Attempt]:
    """What to try, see `graphwright.frontends.export.export_program`; `assume` allows the example's branches."""
    yield Attempt("non-strict", axes)
    if batches_experts(module):
        yield Attempt("batched experts", axes, batched_experts=True)
    yield Attempt("loops over all items", axes, all_items=True)
    yield Attempt("non-strict with deferred runtime assertions", axes, deferred=True)
    if assume:
        yield Attempt("the example's branches on values", axes, answers=True)
    yield Attempt("strict", axes, strict=True)
    named = {axis.name for leaf in axes for axis in leaf.values()}
    if dynamic == "auto" and named:
        if named - {"batch"}:
            yield Attempt("only the batch dynamic", ax.only(axes, ["batch"]))
        yield Attempt("static sizes", [{} for _ in axes])


def batches_experts(module: torch.nn.Module) -> bool:
    """Whether the module is a transformers mixture of experts whose implementation can be chosen."""
    supported = getattr(type(module), "_can_set_experts_implementation", None)
    try:
        return bool(supported and supported())
    except (OSError, TypeError):  # the class has no source file
        return False
