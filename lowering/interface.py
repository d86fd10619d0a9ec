"""Interface of an artifact: its inputs and outputs by name, and the original call they came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.fx import Node
from torch.utils import _pytree as pytree

from graphwright.ir.errors import FileFormatError, InputError
from graphwright.ir.inputs import bind_arguments
from graphwright.ir.program import Program
from graphwright.ir.signature import Example, Signature
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
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    leaf: int

    def torch_dtype(self) -> torch.dtype:
        """The element type as torch has it."""
        return getattr(torch, self.dtype)


@dataclass(frozen=True)
class Interface:
    """Inputs and outputs of an artifact.

    Args:
        inputs: The tensor arguments.
        outputs: The tensor results.
        dims: Smallest and largest size (None: unbounded) of each named dimension.
        signature: Layout of the original call, None where it could not be kept.
        fixed_inputs: Arguments that are not tensors, by leaf.
        fixed_outputs: Results that are not tensors, by leaf.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    dims: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    signature: Signature | None = None
    positional: int = 0
    fixed_inputs: Constants = field(default_factory=dict)
    fixed_outputs: Constants = field(default_factory=dict)

    @staticmethod
    def of(program: Program) -> Interface:
        """The interface of a program."""
        signature, names = program.signature, program.dim_names()
        labels = input_names(signature.in_spec, signature.parameters)
        taken = set(labels)
        leaves = program.example.leaves()
        arguments = list(zip(labels, program.placeholders, strict=True))
        results = list(zip(output_names(signature.out_spec, taken), program.results, strict=True))
        return Interface(
            inputs=tuple(_port(name, node, i, names) for i, (name, node) in enumerate(arguments) if _is_tensor(node)),
            outputs=tuple(_port(name, node, i, names) for i, (name, node) in enumerate(results) if _is_value(node)),
            dims={dim.name: (dim.min, dim.max) for dim in program.dims},
            signature=signature,
            positional=len(program.example.args),
            fixed_inputs={i: leaves[i] for i, (_, node) in enumerate(arguments) if not _is_tensor(node)},
            fixed_outputs={i: node for i, (_, node) in enumerate(results) if not _is_value(node)},
        )

    # ---- calls -------------------------------------------------------------------------------

    def check(self, inputs: Mapping[str, torch.Tensor]) -> None:
        """Compare inputs with the recorded types; dimensions of one name must have one size.

        Raises:
            InputError: Names the input, what was given and what is allowed.
        """
        known = {port.name: port for port in self.inputs}
        for name in inputs:
            if name not in known:
                raise InputError(f"there is no input '{name}'", why=f"the inputs are {', '.join(known)}")
        sizes: dict[str, tuple[int, str]] = {}
        for name, port in known.items():
            if name not in inputs:
                raise InputError(f"input '{name}' is missing", why=f"the inputs are {', '.join(known)}")
            self._check_tensor(port, inputs[name], sizes)

    def _check_tensor(self, port: Port, tensor: torch.Tensor, sizes: dict[str, tuple[int, str]]) -> None:
        if not isinstance(tensor, torch.Tensor):
            raise InputError(f"input '{port.name}' must be a tensor, given {type(tensor).__name__}")
        if tensor.dtype != port.torch_dtype():
            raise InputError(f"input '{port.name}' must have dtype {port.dtype}, given {tensor.dtype}")
        if tensor.dim() != len(port.shape):
            raise InputError(f"input '{port.name}' must have {len(port.shape)} dimensions, given {tensor.dim()}")
        for i, (want, have) in enumerate(zip(port.shape, tensor.shape, strict=True)):
            self._check_size(f"'{port.name}' dimension {i}", want, int(have), sizes)

    def _check_size(self, what: str, want: int | str, have: int, sizes: dict[str, tuple[int, str]]) -> None:
        if isinstance(want, int):
            if want != have:
                raise InputError(f"input {what} is {have}, but was captured with the fixed size {want}")
            return
        low, high = self.dims.get(want, (0, None))
        if have < low or (high is not None and have > high):
            raise InputError(f"input {what} ({want}) is {have}, allowed are {low} to {high or 'any'}")
        first, where = sizes.setdefault(want, (have, what))
        if first != have:
            raise InputError(f"input {what} is {have}, but {where} is {first}: both are the dimension '{want}'")

    def flatten(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Arguments of the original `forward` as inputs by name.

        Raises:
            InputError: The arguments do not fit the captured call.
        """
        signature = self._signature()
        leaves = bind_arguments(signature, self._example(signature), args, kwargs)
        for i, value in self.fixed_inputs.items():
            if leaves[i] != value:
                name = input_names(signature.in_spec, signature.parameters)[i]
                raise InputError(f"input '{name}' was captured as the constant {value!r}, given {leaves[i]!r}")
        return {port.name: leaves[port.leaf] for port in self.inputs}

    def unflatten(self, outputs: Mapping[str, torch.Tensor]) -> Any:
        """Outputs by name in the classes that the original `forward` returned."""
        signature = self._signature()
        leaves: Constants = dict(self.fixed_outputs) | {port.leaf: outputs[port.name] for port in self.outputs}
        return pytree.tree_unflatten([leaves[i] for i in range(len(leaves))], signature.out_spec)

    def _signature(self) -> Signature:
        if self.signature is None:
            raise InputError(
                "this artifact was loaded without the classes of the original call",
                remedies=["use run(**inputs)", "import the package of the model before loading the artifact"],
            )
        return self.signature

    def _example(self, signature: Signature) -> Example:
        """A stand-in for the captured call: only its structure and its constants matter for binding."""
        leaves = dict(self.fixed_inputs)
        leaves |= {port.leaf: torch.empty([1] * len(port.shape), dtype=port.torch_dtype()) for port in self.inputs}
        args, kwargs = pytree.tree_unflatten([leaves[i] for i in range(len(leaves))], signature.in_spec)
        return Example(tuple(args), dict(kwargs))

    # ---- files -------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads."""
        return {
            "inputs": [asdict(port) for port in self.inputs],
            "outputs": [asdict(port) for port in self.outputs],
            "dims": {name: list(bounds) for name, bounds in self.dims.items()},
            "call": self._call_json(),
        }

    def _call_json(self) -> dict[str, Any] | None:
        if self.signature is None:
            return None
        try:
            call = {
                "parameters": list(self.signature.parameters),
                "positional": self.positional,
                "in_spec": pytree.treespec_dumps(self.signature.in_spec),
                "out_spec": pytree.treespec_dumps(self.signature.out_spec),
                "fixed_inputs": sorted(self.fixed_inputs.items()),
                "fixed_outputs": sorted(self.fixed_outputs.items()),
            }
            json.dumps(call)
        except (NotImplementedError, TypeError):  # a class without a serialised name, or an odd constant
            return None
        return call

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Interface:
        """Read what `to_json` made; the original call is left out where its classes are not known here.

        Raises:
            FileFormatError: The data is not what `to_json` makes.
        """
        try:
            call = data["call"] or {}
            return Interface(
                inputs=tuple(_port_from_json(item) for item in data["inputs"]),
                outputs=tuple(_port_from_json(item) for item in data["outputs"]),
                dims={name: (low, high) for name, (low, high) in data["dims"].items()},
                signature=_signature_from_json(call),
                positional=call.get("positional", 0),
                fixed_inputs={i: value for i, value in call.get("fixed_inputs", ())},
                fixed_outputs={i: value for i, value in call.get("fixed_outputs", ())},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileFormatError("the interface in the manifest is not well formed", why=repr(error)) from error


def _signature_from_json(call: Mapping[str, Any]) -> Signature | None:
    if not call:
        return None
    try:
        in_spec, out_spec = pytree.treespec_loads(call["in_spec"]), pytree.treespec_loads(call["out_spec"])
    except NotImplementedError:  # the package that registers the classes is not imported
        return None
    return Signature(tuple(call["parameters"]), in_spec, out_spec)


def _port_from_json(item: Mapping[str, Any]) -> Port:
    return Port(str(item["name"]), str(item["dtype"]), tuple(item["shape"]), int(item["leaf"]))


def _is_tensor(node: Any) -> bool:
    return isinstance(node, Node) and isinstance(node.meta.get("val"), torch.Tensor)


def _is_value(node: Any) -> bool:
    return isinstance(node, Node)


def _port(name: str, node: Node, leaf: int, names: Mapping[str, str]) -> Port:
    value = node.meta["val"]
    if not isinstance(value, torch.Tensor):
        return Port(name, "int64", (), leaf)
    sizes = tuple(dim_text(size, names) for size in value.shape)
    return Port(name, str(value.dtype).removeprefix("torch."), sizes, leaf)


def dim_text(size: int | torch.SymInt, names: Mapping[str, str]) -> int | str:
    """A size as an int, the name of its dimension, or an expression such as `past_sequence + sequence`."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    if expression.is_Integer:
        return int(expression)
    import sympy

    symbols = {s: sympy.Symbol(names.get(str(s), str(s)), integer=True, positive=True) for s in expression.free_symbols}
    return str(expression.xreplace(symbols))
