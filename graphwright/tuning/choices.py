"""What can be tuned: groups of linears, and the bits and the algorithm that each of them gets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from graphwright.ir.errors import PipelineError
from graphwright.passes.quant.calibrate import Calibration
from graphwright.passes.quant.gptq import Quantize
from graphwright.passes.quant.sites import Site

Grouping = Literal["role", "layer", "linear"]
FLOAT = 0
"""Stands for no quantization, where bits are meant."""

METHODS = ("rtn", "gptq", "inc-rtn", "inc-hqq", "inc-gptq", "inc-awq")


def groups_of(sites: Iterable[Site], by: Grouping) -> dict[str, tuple[str, ...]]:
    """Group -> paths of its linears, in graph order.

    Args:
        sites: The linears.
        by: `role`: those of the same name in all layers; `layer`: those of one layer; `linear`: each alone.
    """
    found: dict[str, dict[str, None]] = {}
    for site in sites:
        found.setdefault(_group(site.path, by), {})[site.path] = None
    return {name: tuple(paths) for name, paths in found.items()}


def _group(path: str, by: Grouping) -> str:
    if by == "role":
        return re.sub(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)", "*", path)
    if by == "layer":
        layer = re.match(r"(.*?\.\d+)\.", path)
        return layer[1] if layer else path
    return path


@dataclass(frozen=True)
class Choice:
    """An algorithm, and bits per group.

    Args:
        method: One of `METHODS`.
        bits: (group, bits) pairs; `FLOAT` leaves a group as it is.
    """

    method: str
    bits: tuple[tuple[str, int], ...]

    def with_bits(self, group: str, bits: int) -> Choice:
        """The same with other bits for one group."""
        return replace(self, bits=tuple((name, bits if name == group else own) for name, own in self.bits))

    def of(self, group: str) -> int:
        """The bits of a group."""
        return dict(self.bits)[group]

    @property
    def is_float(self) -> bool:
        """Whether nothing is quantized."""
        return all(bits == FLOAT for _, bits in self.bits)

    def __str__(self) -> str:
        parts = [f"{name}={'float' if bits == FLOAT else bits}" for name, bits in self.bits]
        return f"{self.method}: {', '.join(parts)}"


def quantizer(
    choice: Choice,
    groups: Mapping[str, tuple[str, ...]],
    options: Mapping[str, Any],
    calibration: Calibration | None,
) -> Quantize:
    """The pass that does what a choice says.

    Args:
        choice: Which algorithm and bits.
        groups: Group -> paths.
        options: Further options of the pass, such as `group_size`.
        calibration: Data for the algorithms that need it.

    Raises:
        PipelineError: The algorithm is not known, or needs data that was not given.
    """
    if choice.method not in METHODS:
        raise PipelineError(f"there is no quantization method '{choice.method}'", why=f"there are {', '.join(METHODS)}")
    needs_data = choice.method.removeprefix("inc-") in ("gptq", "awq")
    if needs_data and calibration is None:
        raise PipelineError(f"method '{choice.method}' needs calibration data", remedies=["use rtn, which needs none"])
    overrides: dict[str, Mapping[str, Any] | None] = {"*": None}
    overrides |= {path: {"bits": bits} for name, bits in choice.bits if bits != FLOAT for path in groups[name]}
    common: dict[str, Any] = {**options, "overrides": overrides, "calibration": calibration if needs_data else None}
    return _pass(choice.method, common)


def _pass(method: str, options: dict[str, Any]) -> Quantize:
    if method.startswith("inc-"):
        from graphwright.passes.quant.inc import QuantizeInc

        return QuantizeInc(method=method.removeprefix("inc-"), **options)  # type: ignore[arg-type]
    if method == "gptq":
        from graphwright.passes.quant.gptq import QuantizeGptq

        return QuantizeGptq(**options)
    from graphwright.passes.quant.rtn import QuantizeRtn

    return QuantizeRtn(**options)
