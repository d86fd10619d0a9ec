"""The graph of one TFLite subgraph before it is written: values, operators, and how values are quantized."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

TYPES = {
    "float32": "FLOAT32", "float16": "FLOAT16", "float64": "FLOAT64", "bfloat16": "BFLOAT16", "int64": "INT64",
    "int32": "INT32", "int16": "INT16", "int8": "INT8", "int4": "INT4", "uint8": "UINT8", "bool": "BOOL",
    "resource": "RESOURCE", "complex64": "COMPLEX64",
}  # fmt: skip
"""Names of element types here and in the schema."""

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Quantization:
    """How the integers of a value stand for numbers: `(integer - zero_point) * scale`.

    Args:
        scales: float32 of one entry, or of one for each index of `axis`; for blocks, float16 [rows, blocks].
        zero_points: Integers of the same length as `scales`; not used for blocks, whose zero is 0.
        axis: The dimension that has a scale for each index.
        block: Number of entries of the last dimension that share a scale; 0 for none.
    """

    scales: np.ndarray
    zero_points: np.ndarray | None = None
    axis: int = 0
    block: int = 0

    @staticmethod
    def of(scale: float, zero_point: int = 0) -> Quantization:
        """One scale and zero point for all entries."""
        return Quantization(np.array([scale], np.float32), np.array([zero_point], np.int64))


@dataclass(eq=False)
class Value:
    """A tensor of the graph.

    Args:
        shape: Its sizes.
        dtype: Name of its element type, a key of `TYPES`.
        data: Its entries, for a constant; int4 as one int8 for each entry.
        name: What the file calls it.
        quantization: Set for values that stand for real numbers.
    """

    shape: Shape
    dtype: str
    data: np.ndarray | None = None
    name: str = ""
    quantization: Quantization | None = None

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether the entries are floating-point numbers."""
        return "float" in self.dtype

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(eq=False)
class Operator:
    """One operator.

    Args:
        code: Name of the schema's `BuiltinOperator`.
        inputs: Values; None for one that is left out.
        outputs: Values.
        options: Fields of the operator's options, by the schema's names.
        version: Version of the operator that the runtime must have.
        origin: Name of the program node it was emitted for.
    """

    code: str
    inputs: list[Value | None]
    outputs: list[Value]
    options: dict[str, Any] = field(default_factory=dict)
    version: int = 1
    origin: str = ""


@dataclass(eq=False)
class Graph:
    """A subgraph of a model.

    Args:
        name: Name of the subgraph, and of its signature.
        inputs: Input values by name.
        outputs: Output values by name.
        operators: In execution order.
        decompositions: What the graph's `STABLEHLO_COMPOSITE` operators stand for; these have no signatures.
    """

    name: str
    inputs: dict[str, Value] = field(default_factory=dict)
    outputs: dict[str, Value] = field(default_factory=dict)
    operators: list[Operator] = field(default_factory=list)
    decompositions: list[Graph] = field(default_factory=list)

    def provenance(self) -> dict[str, list[str]]:
        """Program node -> the operators that it became, named `<code>:<position>`."""
        found: dict[str, list[str]] = {}
        for position, operator in enumerate(self.operators):
            found.setdefault(operator.origin, []).append(f"{operator.code}:{position}")
        found.pop("", None)
        return found

    def readers(self) -> Mapping[Value, list[Operator]]:
        """Value -> the operators that read it."""
        found: dict[Value, list[Operator]] = {}
        for operator in self.operators:
            for value in operator.inputs:
                if value is not None:
                    found.setdefault(value, []).append(operator)
        return found

    def values(self) -> Iterable[Value]:
        """Every value once: inputs, then in the order of the operators, then outputs."""
        seen: dict[Value, None] = dict.fromkeys(self.inputs.values())
        for operator in self.operators:
            seen.update(dict.fromkeys(value for value in operator.inputs if value is not None))
            seen.update(dict.fromkeys(operator.outputs))
        seen.update(dict.fromkeys(self.outputs.values()))
        return seen

    def prune(self) -> None:
        """Remove operators whose results nobody reads; those that write to a variable stay."""
        wanted = set(self.outputs.values())
        kept = []
        for operator in reversed(self.operators):
            if operator.code == "ASSIGN_VARIABLE" or any(value in wanted for value in operator.outputs):
                wanted.update(value for value in operator.inputs if value is not None)
                kept.append(operator)
        self.operators = kept[::-1]
