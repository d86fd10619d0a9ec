"""A target of another package: programs as tapes of NumPy calls, in JSON beside a safetensors file."""

import json
import math
from dataclasses import dataclass

import numpy as np
import torch

from graphwright.ir.node import bound
from graphwright.ir.tensorfile import load_tensors, save_tensors
from graphwright.lowering.artifact import Artifact
from graphwright.lowering.call_emitter import CallEmitter
from graphwright.lowering.emitters import EmitterTable
from graphwright.lowering.fold import fold
from graphwright.lowering.interface import Interface
from graphwright.lowering.interface_json import interface_from_json
from graphwright.lowering.static import StaticTarget
from graphwright.lowering.support import Support

aten = torch.ops.aten
TABLE = EmitterTable()

# What a tape may call; an argument {"value": name} stands for the value of that name.
KERNELS = {
    "add": np.add, "multiply": np.multiply, "and": np.bitwise_and, "matmul": np.matmul, "swapaxes": np.swapaxes,
    "reshape": np.reshape, "bool": lambda x: x.astype(bool), "index": lambda x, indices: x[tuple(indices)],
    "mask": lambda x, mask: np.where(mask, x, -1e30) if mask.dtype == bool else x + mask,
    "gelu": lambda x: x * (1 + np.vectorize(math.erf, [x.dtype])(x * 0.5**0.5)) / 2,
    "softmax": lambda x: (e := np.exp(x - x.max(-1, keepdims=True))) / e.sum(-1, keepdims=True),
    "normalize": lambda x, eps, *axes: (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps),
}  # fmt: skip


class Builder:
    """The tape so far; emitters append to it."""

    def __init__(self):
        self.tape, self.node = [], None

    def call(self, kernel, *arguments):
        self.tape.append([f"{self.node.name}.{len(self.tape)}", kernel, list(arguments)])
        return {"value": self.tape[-1][0]}


def only(**allowed):
    """Validator of calls whose arguments have these values and no others."""

    def validate(node):
        wrong = [name for name, value in allowed.items() if bound(node)[name] != value]
        return Support.no(f"{wrong[0]}={bound(node)[wrong[0]]}") if wrong else Support.yes()

    return validate


@TABLE.register(aten.linear.default)
def linear(b, input, weight, bias):
    out = b.call("matmul", input, b.call("swapaxes", weight, 0, 1))
    return out if bias is None else b.call("add", out, bias)


@TABLE.register(aten.layer_norm.default)
def layer_norm(b, input, normalized_shape, weight, bias, eps, cudnn_enable):
    normed = b.call("normalize", input, eps, *range(-len(normalized_shape), 0))
    normed = normed if weight is None else b.call("multiply", normed, weight)
    return normed if bias is None else b.call("add", normed, bias)


@TABLE.register(aten.scaled_dot_product_attention.default, validate=only(is_causal=0, dropout_p=0, enable_gqa=0))
def attention(b, query, key, value, attn_mask, scale, **_):
    scale = bound(b.node)["query"].meta["val"].shape[-1] ** -0.5 if scale is None else scale
    scores = b.call("multiply", b.call("matmul", query, b.call("swapaxes", key, -1, -2)), scale)
    scores = scores if attn_mask is None else b.call("mask", scores, attn_mask)
    return b.call("matmul", b.call("softmax", scores), value)


def simple(op, kernel, **allowed):
    """Register an op whose first arguments are those of a kernel; the others may have one value each."""
    count = len(op._schema.arguments) - len(allowed)
    emit = lambda b, *_, **given: b.call(kernel, *list(given.values())[:count])  # noqa: E731
    TABLE.register(op, validate=only(**allowed))(emit)


simple(aten.add.Tensor, "add", alpha=1)
simple(aten.bitwise_and.Tensor, "and")
simple(aten.gelu.default, "gelu", approximate="none")
simple(aten.reshape.default, "reshape")
simple(aten.transpose.int, "swapaxes")
simple(aten.index.Tensor, "index")
simple(aten.to.dtype, "bool", dtype=torch.bool, non_blocking=False, copy=False, memory_format=None)
TABLE.register(aten.embedding.default)(lambda b, weight, indices, **_: b.call("index", weight, [indices]))


class Emitter(CallEmitter):
    """Walks the program; weights are read by name."""

    label = "NumPy"
    is_weight = staticmethod(lambda node: node.op == "get_attr")
    weight = staticmethod(lambda node: {"value": node.target})
    finish = staticmethod(lambda node, result: result)

    def emitted(self):
        interface = Interface.of(self.program)
        self.values = {self.program.placeholders[p.leaf]: {"value": p.name} for p in interface.inputs}
        self.emit_calls()
        return self.builder.tape, {p.name: self.value(self.program.results[p.leaf]) for p in interface.outputs}


class TapeArtifact(Artifact):
    """A tape, the values that it returns, and its weights; runs on NumPy."""

    def __init__(self, target, interface, tape, outputs, weights):
        super().__init__(target, interface)
        self.tape, self.outputs, self.weights = tape, outputs, weights

    def _run(self, inputs):
        values = {name: tensor.detach().numpy() for name, tensor in {**self.weights, **inputs}.items()}
        read = lambda x: [*map(read, x)] if isinstance(x, list) else values[x["value"]] if isinstance(x, dict) else x  # noqa: E731
        for name, kernel, arguments in self.tape:
            values[name] = np.asarray(KERNELS[kernel](*map(read, arguments)))
        return {name: torch.from_numpy(read(value)) for name, value in self.outputs.items()}

    def _write(self, folder):
        layout = save_tensors(self.weights, folder / "weights.safetensors")
        (folder / "tape.json").write_text(json.dumps([self.tape, self.outputs, layout]))


@dataclass(frozen=True)
class TapeTarget(StaticTarget):
    """Tapes of NumPy calls, one for each size."""

    def pipeline(self):
        return "canonicalize"

    def legalize(self, program):
        return fold(super().legalize(program))

    def supports(self, node):
        return TABLE.find(node)[1]

    def emit(self, program):
        tape, outputs = Emitter(program, Builder(), TABLE).emitted()
        return TapeArtifact(str(self), Interface.of(program), tape, outputs, program.tensors())

    @classmethod
    def load_bucket(cls, folder, entry):
        tape, outputs, layout = json.loads((folder / "tape.json").read_text())
        weights = load_tensors(layout, folder / "weights.safetensors")
        return TapeArtifact(entry["target"], interface_from_json(entry["interface"]), tape, outputs, weights)
