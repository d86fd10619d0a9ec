"""Example inputs on the command line: `--input x=f32[2,16]`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    import torch

HELP = r"Example input as name=dtype\[sizes], such as x=f32[2,16]; once for each input."

_INPUT = re.compile(r"(?P<name>\w+)=(?P<dtype>\w+)\[(?P<sizes>[\d, ]*)\]")
_DTYPES = {
    "f16": "float16",
    "bf16": "bfloat16",
    "f32": "float32",
    "f64": "float64",
    "i32": "int32",
    "i64": "int64",
    "bool": "bool",
}


def parse_inputs(texts: Iterable[str]) -> dict[str, torch.Tensor]:
    """Tensors by parameter name: floating ones are random, whole numbers and booleans are 1.

    Raises:
        typer.BadParameter: A text is not of the form `name=dtype[sizes]`.
    """
    return dict(map(_parse_input, texts))


def _parse_input(text: str) -> tuple[str, torch.Tensor]:
    import torch

    match = _INPUT.fullmatch(text)
    if match is None or match["dtype"] not in _DTYPES:
        raise typer.BadParameter(f"'{text}' is not name=dtype[sizes] with a dtype of {', '.join(_DTYPES)}")
    dtype = getattr(torch, _DTYPES[match["dtype"]])
    sizes = [int(size) for size in match["sizes"].split(",") if size.strip()]
    return match["name"], torch.randn(sizes).to(dtype) if dtype.is_floating_point else torch.ones(sizes, dtype=dtype)
