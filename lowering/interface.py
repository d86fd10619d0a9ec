"""Interface of an artifact: its inputs and outputs by name, and the original call they came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Node
from torch.utils import _pytree as pytree

from graphwright.ir.errors import InputError
from graphwright.ir.inputs import bind_arguments
from graphwright.ir.program import Program
from graphwright.ir.signature import Example, Signature
from graphwright.lowering.dims import dim_text, evaluate
from graphwright.lowering.names import input_names, output_names

Constants = dict[int, Any]


@dataclass(frozen=True)
class Port:
    """One input or output.

    Args:
        name: What callers call it.
        dtype: Name of the element type, such as `float32`.
        shape: Sizes; a text is the name of a dynamic dimension, or an expression of such names.
        leaf: Position among the flat arguments or results of the original call.
        range: Smallest and largest value in the captured example, for integers; None for other inputs and outputs.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    leaf: int
    range: tuple[int, int] | None = None

    def torch_dtype(self) -> torch.dtype:
        """The element type as torch has it."""
        return getattr(torch, self.dtype)


@dataclass(frozen=True)
class DimInfo:
    """A named dimension.

    Args:
        min: Smallest size.
        max: Largest size, None where unbounded.
        example: Size in the captured example.
        only: The only sizes allowed; empty where all between `min` and `max` are.
    """

    min: int = 0
    max: int | None = None
    example: int = 2
    only: tuple[int, ...] = ()

    def allows(self, size: int) -> bool:
        """Whether the dimension may have a size."""
        inside = size >= self.min and (self.max is None or size <= self.max)
        return inside and (not self.only or size in self.only)

    def __str__(self) -> str:
        top = "any" if self.max is None else self.max
        return " or ".join(map(str, self.only)) if self.only else f"{self.min} to {top}"


@dataclass(frozen=True)
class Interface:
    """Inputs and outputs of an artifact.

    Args:
        inputs: The tensor arguments.
        outputs: The tensor results.
        dims: The named dimensions.
        signature: Layout of the original call, None where it could not be kept.
        positional: Number of arguments that were captured by position.
        fixed_inputs: Arguments that are not tensors, by leaf.
        fixed_outputs: Results that are not tensors, by leaf.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    dims: dict[str, DimInfo] = field(default_factory=dict)
    signature: Signature | None = None
    positional: int = 0
    fixed_inputs: Constants = field(default_factory=dict)
    fixed_outputs: Constants = field(default_factory=dict)

    @staticmethod
    def of(program: Program) -> Interface:
        """The interface of a program."""
        signature = program.signature
        labels = input_names(signature.in_spec, signature.parameters)
        leaves = program.example.leaves()
        arguments = list(zip(labels, program.placeholders, strict=True))
        results = list(zip(output_names(signature.out_spec, set(labels)), program.results, strict=True))
        names = program.dim_names()
        inputs = [_input(name, node, i, names, leaves[i]) for i, (name, node) in enumerate(arguments) if _tensor(node)]
        return Interface(
            inputs=tuple(inputs),
            outputs=tuple(_port(name, node, i, names) for i, (name, node) in enumerate(results) if _tensor(node, True)),
            dims=_dims(program, inputs, leaves),
            signature=signature,
            positional=len(program.example.args),
            fixed_inputs={i: leaves[i] for i, (_, node) in enumerate(arguments) if not _tensor(node)},
            fixed_outputs={i: node for i, (_, node) in enumerate(results) if not _tensor(node, True)},
        )

    # ---- checks ------------------------------------------------------------------------------

    def check(self, inputs: Mapping[str, torch.Tensor]) -> None:
        """Compare inputs with the recorded types; dimensions of one name must have one size.

        Raises:
            InputError: Names the input, what was given and what is allowed.
        """
        known = {port.name: port for port in self.inputs}
        for name in inputs:
            if name not in known:
                raise InputError(f"there is no input '{name}'", why=f"the inputs are {', '.join(known)}")
        sizes: dict[str, int] = {}
        for name, port in known.items():
            if name not in inputs:
                raise InputError(f"input '{name}' is missing", why=f"the inputs are {', '.join(known)}")
            _check_type(port, inputs[name])
            self._check_names(port, inputs[name], sizes)
        for port in self.inputs:
            _check_expressions(port, inputs[port.name], sizes)

    def _check_names(self, port: Port, tensor: torch.Tensor, sizes: dict[str, int]) -> None:
        for i, (want, have) in enumerate(zip(port.shape, tensor.shape, strict=True)):
            what = f"input '{port.name}' dimension {i}"
            if isinstance(want, int) and want != have:
                raise InputError(f"{what} is {have}, but was captured with the fixed size {want}")
            info = self.dims.get(str(want))
            if info is None:
                continue
            if not info.allows(have):
                raise InputError(f"{what} ({want}) is {have}, allowed are {info}")
            if sizes.setdefault(str(want), int(have)) != have:
                raise InputError(f"{what} is {have}, but another input has {sizes[str(want)]}: both are '{want}'")

    # ---- calls -------------------------------------------------------------------------------

    def flatten(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Arguments of the original `forward` as inputs by name.

        Raises:
            InputError: The arguments do not fit the captured call.
        """
        signature = self._signature()
        leaves = bind_arguments(signature, self._example(), args, kwargs)
        for i, value in self.fixed_inputs.items():
            if leaves[i] != value:
                name = input_names(signature.in_spec, signature.parameters)[i]
                raise InputError(f"input '{name}' was captured as the constant {value!r}, given {leaves[i]!r}")
        return {port.name: leaves[port.leaf] for port in self.inputs}

    def unflatten(self, outputs: Mapping[str, torch.Tensor]) -> Any:
        """Outputs by name in the classes that the original `forward` returned."""
        leaves: Constants = dict(self.fixed_outputs) | {port.leaf: outputs[port.name] for port in self.outputs}
        return pytree.tree_unflatten([leaves[i] for i in range(len(leaves))], self._signature().out_spec)

    def arguments(self, inputs: Mapping[str, torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Inputs by name as the arguments of the original `forward`."""
        leaves: Constants = dict(self.fixed_inputs) | {port.leaf: inputs[port.name] for port in self.inputs}
        args, kwargs = pytree.tree_unflatten([leaves[i] for i in range(len(leaves))], self._signature().in_spec)
        return tuple(args), dict(kwargs)

    def results(self, result: Any) -> dict[str, torch.Tensor]:
        """What the original `forward` returned as outputs by name; more than what was captured is left out.

        Raises:
            InputError: The result has another number of leaves than the captured one, and not all of its names.
        """
        leaves, spec = pytree.tree_flatten(result, is_leaf=lambda leaf: leaf is None)
        expected = len(self.outputs) + len(self.fixed_outputs)
        if len(leaves) != expected:
            named = dict(zip(output_names(spec, {port.name for port in self.inputs}), leaves, strict=True))
            if not all(isinstance(named.get(port.name), torch.Tensor) for port in self.outputs):
                raise InputError(f"the result has {len(leaves)} values, the captured one had {expected}")
            return {port.name: named[port.name] for port in self.outputs}
        return {port.name: torch.as_tensor(leaves[port.leaf]) for port in self.outputs}

    def _signature(self) -> Signature:
        if self.signature is None:
            raise InputError(
                "this artifact was loaded without the classes of the original call",
                remedies=["use run(**inputs)", "import the package of the model before loading the artifact"],
            )
        return self.signature

    def _example(self) -> Example:
        """A stand-in for the captured call: only its structure and its constants matter for binding."""
        blanks = {port.name: torch.empty([1] * len(port.shape), dtype=port.torch_dtype()) for port in self.inputs}
        return Example(*self.arguments(blanks))


def _check_type(port: Port, tensor: Any) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise InputError(f"input '{port.name}' must be a tensor, given {type(tensor).__name__}")
    if tensor.dtype != port.torch_dtype():
        raise InputError(f"input '{port.name}' must have dtype {port.dtype}, given {tensor.dtype}")
    if tensor.dim() != len(port.shape):
        raise InputError(f"input '{port.name}' must have {len(port.shape)} dimensions, given {tensor.dim()}")


def _check_expressions(port: Port, tensor: torch.Tensor, sizes: Mapping[str, int]) -> None:
    for i, (want, have) in enumerate(zip(port.shape, tensor.shape, strict=True)):
        expected = evaluate(want, sizes)
        if expected is not None and expected != have:
            raise InputError(f"input '{port.name}' dimension {i} is {have}, but {want} is {expected}")


def _dims(program: Program, inputs: list[Port], leaves: list[Any]) -> dict[str, DimInfo]:
    """The program's dimensions, with their sizes in the captured example."""
    seen: dict[str, int] = {}
    for port in inputs:
        for name, size in zip(port.shape, leaves[port.leaf].shape, strict=True):
            seen.setdefault(str(name), int(size))
    return {dim.name: DimInfo(dim.min, dim.max, seen.get(dim.name, max(dim.min, 2))) for dim in program.dims}


def _tensor(node: Any, numbers: bool = False) -> bool:
    """Whether a node stands for a tensor, or with `numbers` for any value that is computed."""
    return isinstance(node, Node) and (numbers or isinstance(node.meta.get("val"), torch.Tensor))


def _input(name: str, node: Node, leaf: int, names: Mapping[str, str], example: torch.Tensor) -> Port:
    port = _port(name, node, leaf, names)
    if example.is_floating_point() or example.is_complex() or not example.numel():
        return port
    return Port(port.name, port.dtype, port.shape, leaf, (int(example.min()), int(example.max())))


def _port(name: str, node: Node, leaf: int, names: Mapping[str, str]) -> Port:
    value = node.meta["val"]
    if not isinstance(value, torch.Tensor):
        return Port(name, "int64", (), leaf)
    sizes = tuple(dim_text(size, names) for size in value.shape)
    return Port(name, str(value.dtype).removeprefix("torch."), sizes, leaf)
