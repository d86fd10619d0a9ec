"""Build the smallest model of an architecture that can be built and run."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.coverage.architectures import Architecture, config_class, model_class
from benchmarks.coverage.exceptions import overrides_of
from benchmarks.coverage.shrink import shrunk
from benchmarks.coverage.sizes import GROUPS

LARGEST = 80_000_000
_LEVELS = (
    GROUPS,
    GROUPS - {"stages"},
    GROUPS - {"stages", "images", "windows"},
    frozenset({"vocabulary", "experts", "depth", "queries"}),
    frozenset({"depth"}),
    frozenset[str](),
)


class NotBuilt(Exception):
    """The model cannot be built from any of the small configs; says why, for the first."""


@dataclass
class Tiny:
    """A model and how it was made.

    Args:
        model: In evaluation mode, in float32, weights scaled.
        level: 0 for the smallest, the more the nearer to the defaults of the class.
    """

    model: Any
    level: int


def candidates(architecture: Architecture) -> Iterator[Tiny]:
    """Models of an architecture, smallest first.

    Raises:
        NotBuilt: There is none.
    """
    reasons: list[str] = []
    built = False
    for level, groups in enumerate(_LEVELS):
        try:
            model = _build(architecture, groups)
        except Exception as error:
            reasons.append(f"{type(error).__name__}: {error}")
            continue
        built = True
        yield Tiny(model, level)
    if not built:
        raise NotBuilt(reasons[0])


def _build(architecture: Architecture, groups: frozenset[str]) -> Any:
    torch.manual_seed(0)
    overrides = copy.deepcopy(overrides_of(architecture.model_type, architecture.class_name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cls = model_class(architecture)
        defaults = overrides.pop("defaults", {})
        default = config_class(architecture)(**defaults)
        overrides = {name: value for name, value in {**defaults, **overrides}.items() if hasattr(default, name)}
        config = shrunk(default, groups, overrides)
        config._attn_implementation = "eager"
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in _make(cls, copy.deepcopy(config)).parameters())
        if count > LARGEST:
            raise ValueError(f"it has {count / 1e6:.0f} million parameters, more than {LARGEST / 1e6:.0f}")
        return _make(cls, config).eval()


def _make(cls: type[Any], config: Any) -> Any:
    make = getattr(cls, "_from_config", None)
    return make(config) if make is not None else cls(config)


def scale(model: Any, factor: float) -> None:
    """Scale the weights, so that errors show: fresh ones are so small that softmax is uniform.

    Args:
        model: Changed in place; its buffers (running statistics, rotary tables) are not.
        factor: For tensors of two dims and more; vectors get noise.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in {id(p): p for p in model.parameters()}.values():
            if not parameter.is_floating_point():
                continue
            if parameter.dim() > 1:
                parameter.mul_(factor)
            else:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
