"""How far a model of lower precision is from the unmodified one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from graphwright.ir.errors import MismatchError
from graphwright.lowering.artifact import Artifact
from graphwright.lowering.interface import Interface, Port
from graphwright.lowering.samples import Sample, samples

LIMITS = {"float16": 0.03, "bfloat16": 0.1, "int8": 0.2, "fp8": 0.2, "int4": 0.6}
"""Largest relative error accepted. Each is several times what tiny models with large random weights show; trained
models are far below. An error near 1 means that the outputs have nothing in common."""


@dataclass(frozen=True)
class Error:
    """The error of one output over all cases.

    Args:
        output: Its name.
        relative: Root of the mean square difference, per root of the mean square of the right values.
        largest: Largest absolute difference.
        agreement: Share of rows whose largest entry is the same one; None where that means nothing.
    """

    output: str
    relative: float
    largest: float
    agreement: float | None = None


@dataclass(frozen=True)
class Accuracy:
    """The errors of all outputs; `str()` is a table.

    Args:
        precision: What the artifact computes in.
        limit: Largest relative error that is accepted.
        errors: One for each output, caches taken together.
    """

    precision: str
    limit: float
    errors: tuple[Error, ...]

    @property
    def ok(self) -> bool:
        """Whether all errors are within the limit."""
        return all(error.relative <= self.limit for error in self.errors)

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        return {"precision": self.precision, "limit": self.limit, "errors": [asdict(error) for error in self.errors]}

    def raise_if_wrong(self) -> None:
        """Raise if an error is beyond the limit.

        Raises:
            MismatchError: Names the precision and shows the table.
        """
        if not self.ok:
            raise MismatchError(
                f"the model in {self.precision} is too far from the original",
                why=str(self),
                remedies=["keep more operators in float32", "quantise fewer products, or calibrate on better inputs"],
            )

    def __str__(self) -> str:
        lines = [f"accuracy in {self.precision}, relative error up to {self.limit} accepted"]
        for error in self.errors:
            same = "" if error.agreement is None else f"  same choice {100 * error.agreement:.1f} %"
            lines.append(f"  {error.output:24} relative {error.relative:.1e}  largest {error.largest:.1e}{same}")
        return "\n".join(lines)


@torch.no_grad()
def accuracy(reference: torch.nn.Module, artifact: Artifact, exact: Interface, precision: str) -> Accuracy:
    """Compare an artifact of lower precision with the unmodified module, on the inputs that `compare` uses.

    Args:
        reference: The unmodified module in float32.
        artifact: What is checked; its inputs and outputs may be in another type than the reference's.
        exact: The interface of the module.
        precision: Name of the precision, one of `LIMITS`.
    """
    sums: dict[str, _Sum] = {}
    exact = replace(exact, dims=exact.dims | dict(artifact.interface.dims))  # it may take fewer sizes than the module
    for case in _cases(reference, exact):
        args, kwargs = exact.arguments({name: tensor.clone() for name, tensor in case.inputs.items()})
        expected = exact.results(reference(*args, **kwargs))
        actual = artifact.run(**_typed(artifact, case.inputs))
        for port in exact.outputs:
            label = "present.*" if port.name.startswith("present.") else port.name
            sums.setdefault(label, _Sum()).add(expected[port.name], actual[port.name], port)
    return Accuracy(precision, LIMITS[precision], tuple(found.error(name) for name, found in sums.items()))


def _cases(reference: torch.nn.Module, interface: Interface) -> Iterator[Sample]:
    """Samples that the reference itself can run, unpadded: what it computes at padding means nothing."""
    for case in samples(interface):
        if "padding" in case.label:
            continue
        args, kwargs = interface.arguments({name: tensor.clone() for name, tensor in case.inputs.items()})
        try:
            reference(*args, **kwargs)
        except Exception:
            if case.label == "as captured":
                raise
            continue
        yield case


def _typed(artifact: Artifact, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    ports = {port.name: port for port in artifact.interface.inputs}
    return {name: tensor.to(ports[name].torch_dtype()) for name, tensor in inputs.items()}


class _Sum:
    """Running sums of one output."""

    def __init__(self) -> None:
        self.difference = self.size = self.largest = 0.0
        self.rows = self.same = 0

    def add(self, want: torch.Tensor, have: torch.Tensor, port: Port) -> None:
        wide, other = want.detach().double(), have.detach().double()
        if not wide.numel():
            return
        gap = (wide - other).abs().nan_to_num(nan=torch.inf)
        self.difference += float(gap.square().sum())
        self.size += float(wide.square().sum())
        self.largest = max(self.largest, float(gap.max()))
        if "logits" in port.name and wide.dim() > 1:
            hits = wide.argmax(-1) == other.argmax(-1)
            self.rows, self.same = self.rows + hits.numel(), self.same + int(hits.sum())

    def error(self, name: str) -> Error:
        relative = (self.difference / max(self.size, 1e-300)) ** 0.5
        return Error(name, relative, self.largest, self.same / self.rows if self.rows else None)
