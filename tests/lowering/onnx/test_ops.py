"""Every emitter against the op it stands for, on dynamic sizes; float32, so differences are a few rounding steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from graphwright.frontends.capture import capture
from graphwright.ir.node import OpOverload
from graphwright.lowering.compare import compare
from graphwright.lowering.interface import Interface
from graphwright.lowering.onnx.table import load_table
from graphwright.lowering.registry import target

Function = Callable[..., Any]


def floats(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def positive(*shape: int) -> torch.Tensor:
    return floats(*shape).abs() + 0.1


def ints(high: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(sum(shape)))


def bools(*shape: int) -> torch.Tensor:
    return floats(*shape) > 0


class Call(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: torch.Tensor) -> Any:
        return self.function(*args)


UNARY = [
    torch.abs, torch.ceil, torch.cos, torch.cosh, torch.erf, torch.exp, torch.floor, torch.neg, torch.relu,
    torch.round, torch.sigmoid, torch.sign, torch.sin, torch.sinh, torch.tan, torch.tanh, torch.atan, torch.square,
    F.gelu, F.silu, F.mish, F.softplus, F.leaky_relu, F.elu, F.hardswish, F.hardsigmoid, F.relu6, F.logsigmoid,
    F.hardtanh, torch.logical_not, torch.isnan, torch.isinf, torch.nan_to_num, torch.clone, torch.nonzero,
]  # fmt: skip
POSITIVE = [torch.log, torch.log2, torch.log10, torch.log1p, torch.sqrt, torch.rsqrt, torch.reciprocal]
BINARY = [
    torch.add, torch.sub, torch.mul, torch.div, torch.maximum, torch.minimum, torch.eq, torch.ne, torch.lt, torch.le,
    torch.gt, torch.ge, torch.fmod, torch.remainder, torch.floor_divide, torch.logical_and, torch.logical_or,
    torch.logical_xor,
]  # fmt: skip

CASES: dict[str, tuple[Function, tuple[Any, ...]]] = {
    "add-alpha": (lambda x, y: torch.add(x, y, alpha=2), (floats(3, 4), floats(4))),
    "rsub": (lambda x: 1 - x, (floats(3, 4),)),
    "int-float": (lambda x, y: x * y + 2, (ints(9, 3, 4), floats(3, 4))),
    "int-div": (lambda x: x / 4, (ints(9, 3, 4),)),
    "int-times-half": (lambda x: x * 0.5, (ints(9, 3, 4),)),
    "bool-add": (lambda x, y: x + y, (bools(3, 4), bools(3, 4))),
    "bool-mul": (lambda x, y: x * y, (bools(3, 4), bools(3, 4))),
    "bool-minus": (lambda x: 1.0 - x.float(), (bools(3, 4),)),
    "int-and": (lambda x, y: x & y, (ints(9, 3, 4), ints(9, 3, 4))),
    "int-or-not": (lambda x, y: ~x | y, (ints(9, 3, 4), ints(9, 3, 4))),
    "floor-div-negative": (lambda x: (x - 5) // 3, (ints(9, 3, 4),)),
    "remainder-negative": (lambda x: (x - 5) % 3, (ints(9, 3, 4),)),
    "div-floor": (lambda x: torch.div(x, 0.3, rounding_mode="floor"), (floats(3, 4),)),
    "div-trunc": (lambda x: torch.div(x, 0.3, rounding_mode="trunc"), (floats(3, 4),)),
    "div-trunc-int": (lambda x: torch.div(x - 5, 2, rounding_mode="trunc"), (ints(9, 3, 4),)),
    "pow-2": (lambda x: x**2, (floats(3, 4),)),
    "pow-3": (lambda x: x**3, (floats(3, 4),)),
    "pow-half": (lambda x: x**-0.5, (positive(3, 4),)),
    "pow-int": (lambda x: x**3, (ints(5, 3, 4),)),
    "pow-tensor": (lambda x, y: torch.pow(x, y), (positive(3, 4), floats(3, 4))),
    "pow-scalar-base": (lambda x: torch.pow(2.0, x), (floats(3, 4),)),
    "clamp": (lambda x: x.clamp(-0.5, 0.5), (floats(3, 4),)),
    "clamp-min-int": (lambda x: x.clamp(min=2), (ints(9, 3, 4),)),
    "clamp-tensor": (lambda x, y: torch.clamp(x, max=y), (floats(3, 4), floats(3, 4))),
    "gelu-tanh": (lambda x: F.gelu(x, approximate="tanh"), (floats(3, 4),)),
    "softplus-beta": (lambda x: F.softplus(x * 20, beta=2, threshold=5), (floats(3, 4),)),
    "where": (lambda c, x, y: torch.where(c, x, y), (bools(3, 4), floats(3, 4), floats(4))),
    "where-scalar": (lambda c: torch.where(c, 0.0, float("-inf")), (bools(3, 4),)),
    "masked-fill": (lambda x, m: x.masked_fill(m, -1e9), (floats(3, 4), bools(3, 1))),
    "cast": (lambda x: (x.long(), x.bool(), x.half().float()), (floats(3, 4) * 5,)),
    "sum": (lambda x: (x.sum(), x.sum(-1), x.sum((0, 2), keepdim=True)), (floats(3, 4, 5),)),
    "sum-bool": (lambda x: x.sum(-1), (bools(3, 4),)),
    "mean": (lambda x: (x.mean(), x.mean((1, 2)), x.mean(0, keepdim=True)), (floats(3, 4, 5),)),
    "amax": (lambda x: (x.amax(-1), x.amin((0, 1)), x.max(), x.min()), (floats(3, 4, 5),)),
    "max-dim": (lambda x: (*x.max(1), *x.min(-1, keepdim=True)), (floats(3, 4, 5),)),
    "argmax": (lambda x: (x.argmax(), x.argmax(-1), x.argmin(0, keepdim=True)), (floats(3, 4, 5),)),
    "any-all": (lambda x: (x.any(), x.all(-1), x.any(0, keepdim=True)), (bools(3, 4),)),
    "any-int": (lambda x: (x.any(-1), x.all(0)), (ints(2, 3, 4),)),
    "prod": (lambda x: x.prod(-1), (floats(3, 4),)),
    "norm": (lambda x: (x.norm(dim=-1), torch.linalg.vector_norm(x, 1, dim=0)), (floats(3, 4),)),
    "normalize": (lambda x: F.normalize(x, dim=-1), (floats(3, 4),)),
    "var": (lambda x: (x.var(-1), x.var((0, 1), correction=0, keepdim=True), x.std(1)), (floats(3, 4, 5),)),
    "softmax": (lambda x: (x.softmax(-1), x.log_softmax(1), x.softmax(0)), (floats(3, 4, 5),)),
    "logsumexp": (lambda x: x.logsumexp(-1), (floats(3, 4),)),
    "cumsum": (lambda x, y: (x.cumsum(1), y.cumsum(-1)), (floats(3, 4), bools(3, 4))),
    "view": (lambda x: x.view(x.shape[0], x.shape[1], 2, 3), (floats(3, 4, 6),)),
    "merge-heads": (lambda x: x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1), (floats(3, 2, 4, 6),)),
    "flatten": (lambda x: (x.flatten(), x.flatten(1), x.flatten(0, 1)), (floats(3, 4, 5),)),
    "unflatten": (lambda x: x.unflatten(-1, (2, -1)), (floats(3, 6),)),
    "squeeze": (lambda x: (x.squeeze(1), x.squeeze(0), x[..., None].squeeze(-1)), (floats(3, 1, 5),)),
    "permute": (lambda x: (x.permute(2, 0, 1), x.mT, x.movedim(0, -1), x.transpose(-1, 0)), (floats(3, 4, 5),)),
    "t": (lambda x: x.t(), (floats(3, 4),)),
    "expand": (lambda x: (x[:, None].expand(-1, 3, -1), x.expand(2, -1, -1)), (floats(3, 4),)),
    "expand-as": (lambda x, y: x.expand_as(y), (floats(1, 4), floats(3, 4))),
    "repeat": (lambda x: (x.repeat(2, 3), x.repeat(2, 1, 3)), (floats(3, 4),)),
    "repeat-interleave": (lambda x: x.repeat_interleave(2, dim=1), (floats(3, 4),)),
    "cat": (lambda x, y: torch.cat([x, y, x], dim=-1), (floats(3, 4), floats(3, 5))),
    "cat-types": (lambda x, y: torch.cat([x, y]), (floats(3, 4), ints(9, 2, 4))),
    "stack": (lambda x, y: (torch.stack([x, y]), torch.stack([x, y], -1)), (floats(3, 4), floats(3, 4))),
    "tril": (lambda x: (x.tril(), x.triu(1), x.tril(-1)), (floats(4, 5),)),
    "tril-bool": (lambda x: x.tril(), (bools(4, 5),)),
    "pad": (lambda x: (F.pad(x, (1, 2)), F.pad(x, (0, 1, 2, 0), value=3.0), F.pad(x, (-1, 0))), (floats(3, 4),)),
    "pad-reflect": (
        lambda x: (F.pad(x, (1, 2), mode="reflect"), F.pad(x, (2, 1), mode="replicate")),
        (floats(2, 3, 4),),
    ),
    "slice": (lambda x: (x[:, 1:], x[:, :-1], x[:, -2:], x[::2], x[1:3, :100]), (floats(5, 4),)),
    "select": (lambda x: (x[0], x[:, -1], x[..., 1]), (floats(5, 4, 3),)),
    "narrow": (lambda x: (x.narrow(1, 1, 2), x.narrow(0, -2, 2)), (floats(5, 4),)),
    "split": (lambda x: (*x.split(2, -1), *x.chunk(3, -1), *x.split([1, 5], -1)), (floats(3, 6),)),
    "split-dynamic": (lambda x: x.chunk(2, 0)[0] if False else x.unbind(-1), (floats(3, 4),)),
    "flip": (lambda x: (x.flip(0), x.flip(0, 1)), (floats(3, 4),)),
    "roll": (lambda x: (x.roll(1, 0), x.roll((-1, 2), (0, 1))), (floats(3, 4),)),
    "arange": (lambda x: (torch.arange(x.shape[1]), torch.arange(2, x.shape[1] + 3, 2)), (floats(3, 4),)),
    "arange-float": (lambda x: torch.arange(x.shape[1], dtype=torch.float32) * 0.5, (floats(3, 4),)),
    "full": (lambda x: (torch.full(x.shape, 2.5), torch.zeros_like(x), x.new_ones(x.shape[0], 2)), (floats(3, 4),)),
    "eye": (lambda x: (torch.eye(x.shape[0]), torch.eye(x.shape[0], x.shape[1])), (floats(3, 4),)),
    "size-arithmetic": (lambda x: x[: x.shape[0] // 2 + 1, : x.shape[1] - 1] * x.shape[1], (floats(5, 4),)),
    "embedding": (lambda i, w: F.embedding(i, w), (ints(7, 3, 4), floats(7, 5))),
    "gather": (lambda x, i: (x.gather(1, i), torch.take_along_dim(x, i, 1)), (floats(3, 4), ints(4, 3, 6))),
    "index-select": (lambda x, i: x.index_select(1, i), (floats(3, 4), ints(4, 6))),
    "index-one": (lambda x, i: (x[i], x[:, i]), (floats(4, 4, 3), ints(4, 2, 5))),
    "index-negative": (lambda x, i: x[:, i - 4], (floats(4, 4, 3), ints(4, 5))),
    "index-two": (lambda x, i, j: (x[i, j], x[i[:, None], j]), (floats(5, 4, 3), ints(4, 6), ints(4, 6))),
    "index-inner": (lambda x, i, j: x[:, i, j], (floats(2, 5, 4, 3), ints(4, 6), ints(4, 6))),
    "index-apart": (lambda x, i, j: x[i, :, j], (floats(5, 4, 3), ints(3, 6), ints(3, 6))),
    "index-scalar-row": (lambda x: x[torch.arange(x.shape[0]), torch.tensor(1)], (floats(5, 4, 3),)),
    "index-put": (
        lambda x, i, j, v: (x.index_put((i, j), v), x.index_put((i, j), v, accumulate=True)),
        (floats(5, 4), torch.tensor([0, 2, 4]), torch.tensor([1, 1, 3]), floats(3)),
    ),
    "index-put-inner": (
        lambda x, i, v: torch.ops.aten.index_put(x, [None, i], v),
        (floats(5, 4, 3), torch.tensor([0, 2]), floats(5, 2, 3)),
    ),
    "scatter": (
        lambda x, i, s: (x.scatter(1, i, s), x.scatter(1, i, 0.5)),
        (floats(3, 4), torch.tensor([[0, 1], [2, 3], [1, 0]]), floats(3, 2)),
    ),
    "scatter-add": (lambda x, i, s: x.scatter_add(1, i, s), (floats(3, 4), ints(4, 3, 6), floats(3, 6))),
    "slice-scatter": (
        lambda x, s: (
            torch.slice_scatter(x, s, 1, 1, 3),
            torch.slice_scatter(x, s, 1, 0, 4, 2),
            torch.slice_scatter(x, s, 1, 2),
        ),
        (floats(3, 4), floats(3, 2)),
    ),
    "select-scatter": (lambda x, s: (x.select_scatter(s, 0, 1), x.select_scatter(s, 0, -1)), (floats(3, 4), floats(4))),
    "index-copy": (lambda x, i, s: x.index_copy(1, i, s), (floats(3, 4), torch.tensor([2, 0]), floats(3, 2))),
    "topk": (lambda x: (*x.topk(2), *x.topk(2, dim=0, largest=False)), (floats(4, 5),)),
    "sort": (lambda x: (*x.sort(-1), *x.sort(0, descending=True)), (floats(4, 5),)),
    "linear": (lambda x, w, b: (F.linear(x, w), F.linear(x, w, b)), (floats(2, 3, 4), floats(5, 4), floats(5))),
    "linear-2d": (lambda x, w, b: F.linear(x, w, b), (floats(3, 4), floats(5, 4), floats(5))),
    "matmul": (lambda x, y, v: (x @ y, x @ v), (floats(2, 3, 4, 5), floats(2, 3, 5, 4), floats(5))),
    "bmm": (lambda x, y: torch.bmm(x, y), (floats(2, 3, 4), floats(2, 4, 5))),
    "addmm": (lambda c, x, y: torch.addmm(c, x, y, beta=0.5, alpha=2), (floats(5), floats(3, 4), floats(4, 5))),
    "baddbmm": (
        lambda c, x, y: (torch.baddbmm(c, x, y, alpha=0.5), torch.baddbmm(c, x, y, beta=0)),
        (floats(2, 3, 5), floats(2, 3, 4), floats(2, 4, 5)),
    ),
    "einsum": (lambda x, y: torch.einsum("bhqd,bhkd->bhqk", x, y), (floats(2, 3, 4, 5), floats(2, 3, 6, 5))),
    "layer-norm": (
        lambda x, w, b: (F.layer_norm(x, (4,), w, b), F.layer_norm(x, (4,)), F.layer_norm(x, (4,), w, eps=0.1)),
        (floats(2, 3, 4), floats(4), floats(4)),
    ),
    "rms-norm": (lambda x, w: (F.rms_norm(x, (4,), w, 1e-3), F.rms_norm(x, (4,))), (floats(2, 3, 4), floats(4))),
    "group-norm": (
        lambda x, w, b: (F.group_norm(x, 2, w, b), F.group_norm(x, 4)),
        (floats(2, 4, 5), floats(4), floats(4)),
    ),
    "batch-norm": (lambda x, m, v, w: F.batch_norm(x, m, v, w), (floats(2, 4, 5), floats(4), positive(4), floats(4))),
    "conv1d": (
        lambda x, w, b: (F.conv1d(x, w, b, padding=1), F.conv1d(x, w, stride=2), F.conv1d(x, w, padding="same")),
        (floats(2, 4, 9), floats(6, 4, 3), floats(6)),
    ),
    "conv2d": (
        lambda x, w: F.conv2d(x, w, stride=2, padding=(1, 0), groups=2),
        (floats(2, 4, 9, 8), floats(6, 2, 3, 3)),
    ),
    "conv-transpose": (
        lambda x, w: F.conv_transpose1d(x, w, stride=2, padding=1, output_padding=1),
        (floats(2, 4, 9), floats(4, 6, 3)),
    ),
    "max-pool": (lambda x: F.max_pool2d(x, 3, 2, 1), (floats(2, 4, 9, 8),)),
    "avg-pool": (lambda x: (F.avg_pool2d(x, 2), F.avg_pool1d(x[0], 3, 1, 1)), (floats(2, 4, 8, 8),)),
    "adaptive-pool": (lambda x: (F.adaptive_avg_pool2d(x, 1), F.adaptive_avg_pool2d(x, (4, 2))), (floats(2, 4, 8, 8),)),
    "interpolate": (
        lambda x: (
            F.interpolate(x, (6, 9), mode="bilinear"),
            F.interpolate(x, (6, 9), mode="bilinear", align_corners=True),
            F.interpolate(x, scale_factor=2, mode="nearest"),
            F.interpolate(x, (9, 7), mode="bicubic"),
        ),
        (floats(2, 3, 4, 5),),
    ),
    "item": (lambda x, n: x * n.item(), (floats(3, 4), torch.tensor(3))),
    "decomposed": (
        lambda x, y: (torch.lerp(x, y, 0.3), torch.addcmul(x, x, y), torch.diff(x)),
        (floats(3, 4), floats(3, 4)),
    ),
    "glu": (lambda x: F.glu(x, -1), (floats(3, 4),)),
    "passed-through": (lambda x: (x, x, x + 0), (floats(3, 4),)),
    "number": (lambda x: (x.shape[0] * 2, x.relu()), (floats(3, 4),)),
}
CASES |= {f.__name__: (f, (floats(3, 4) * 3,)) for f in UNARY}
CASES |= {f.__name__: (f, (positive(3, 4),)) for f in POSITIVE}
CASES |= {f.__name__: (f, (floats(3, 4), positive(4))) for f in BINARY}

# Calls that relate the sizes of their arguments in ways that compare does not know.
STATIC = {
    "adaptive-pool", "avg-pool", "conv-transpose", "conv1d", "conv2d", "expand-as", "index-copy", "index-put",
    "index-put-inner", "interpolate", "item", "masked-fill", "max-pool", "pad-reflect", "scatter", "select-scatter",
    "slice-scatter", "squeeze",
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_op(name: str) -> None:
    function, args = CASES[name]
    module = Call(function)
    program = capture(module, args, dynamic=None if name in STATIC else "auto")
    expected = Interface.of(program).results(module(*args))
    for opset in (18, 23):
        artifact = target(f"onnx{{opset={opset}}}").lower(program)
        outputs = artifact.run(**dict(zip(artifact.input_names, args, strict=True)))
        for port in artifact.interface.outputs:
            torch.testing.assert_close(outputs[port.name], expected[port.name], rtol=1e-5, atol=1e-5)
    if name not in STATIC:
        compare(module, artifact, rtol=1e-5, atol=1e-5)


def test_emitters_take_the_arguments_of_their_ops() -> None:
    import inspect

    for op, emitters in load_table().emitters.items():
        if isinstance(op, OpOverload):
            names = [argument.name for argument in op._schema.arguments]
            for emitter in emitters:
                inspect.signature(emitter.emit).bind(None, **dict.fromkeys(names))
