"""How linears are quantized: one frozen set of options, and overrides by path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch

from graphwright.ir.errors import PipelineError

Order = Literal["none", "act", "static", "group"]

SCALE_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Options:
    """Options of one linear.

    Args:
        bits: Bits of a code: 2, 3, 4 or 8.
        group_size: Inputs that share a scale; 0 for one scale per output.
        symmetric: Zero is the middle code; otherwise each group has a zero point.
        signed_scales: Let a symmetric scale be negative, so that the side with one code more is the side that needs it.
        order: Order in which inputs are quantized. `none`: as they come; `act`: by falling second moment, groups formed
            in that order (`group_index` is scattered); `static`: the same order, groups of neighbours; `group`: sorted
            within groups, then groups sorted.
        damping: Part of the Hessian's mean diagonal that is added to it.
        rounds: Times that scales are refitted and codes swept again after the first solution.
        sweeps: Coordinate-descent sweeps over the codes per round.
        float_target: Aim at the output of the float model, where inputs come from the quantized one.
        residual_target: Aim also at undoing the error of the residual stream that the output is added to.
        curvature: Weigh errors of outputs together by what they do to the predictions, from a pass backwards over the
            calibration data: several times as slow, and the values of all layers for one batch must fit in memory.
        scale_dtype: Dtype that scales are stored in; codes are chosen for the rounded scales.
    """

    bits: int = 4
    group_size: int = 128
    symmetric: bool = True
    signed_scales: bool = True
    order: Order = "group"
    damping: float = 0.1
    rounds: int = 3
    sweeps: int = 2
    float_target: bool = True
    residual_target: bool = True
    curvature: bool = False
    scale_dtype: str = "float16"

    def __post_init__(self) -> None:
        if self.bits not in (2, 3, 4, 8):
            raise PipelineError(f"weights cannot have {self.bits} bits", why="codes have 2, 3, 4 or 8 bits")
        if self.group_size < 0 or self.damping <= 0 or self.rounds < 0 or self.sweeps < 0:
            raise PipelineError(f"the options {self} are out of range", why="sizes and counts are not negative")
        if self.scale_dtype not in SCALE_DTYPES:
            raise PipelineError(f"scales cannot be {self.scale_dtype}", why=f"they are {', '.join(SCALE_DTYPES)}")

    @property
    def top(self) -> int:
        """The largest code."""
        return 2**self.bits - 1

    def width(self, inputs: int) -> int:
        """Inputs of a group of a linear with so many inputs."""
        return min(self.group_size, inputs) or inputs

    def round_scales(self, scales: torch.Tensor) -> torch.Tensor:
        """Scales as they come back from storage; those that vanish there become the smallest that do not."""
        dtype = SCALE_DTYPES[self.scale_dtype]
        rounded = scales.to(dtype)
        return torch.where(rounded == 0, torch.finfo(dtype).tiny, rounded.to(scales.dtype))


def options_for(path: str, default: Options, overrides: Mapping[str, Mapping[str, Any] | None]) -> Options | None:
    """The options of the linear at `path`, None if it stays as it is.

    Args:
        path: Module path of the linear.
        default: Options where no override matches.
        overrides: Glob of paths -> option values, or None to leave the linear out; the last match wins.

    Raises:
        PipelineError: An override names an unknown option.
    """
    found: Mapping[str, Any] | None = {}
    for glob, values in overrides.items():
        if fnmatchcase(path, glob):
            found = values
    try:
        return None if found is None else replace(default, **found)
    except TypeError as error:
        raise PipelineError(f"an override for '{path}' has an unknown option", why=str(error)) from error
