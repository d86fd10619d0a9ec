"""Emitters against the ops they stand for, several in one module; float32, so differences are a few rounding steps."""

from __future__ import annotations

import inspect

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("jax")

import graphwright as gw
from graphwright.ir.node import OpOverload
from graphwright.lowering.interface import Interface
from graphwright.lowering.neuron.table import load_table

aten = torch.ops.aten


def floats(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def ints(high, *shape):
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(sum(shape)))


class Call(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


X, N, B = floats(3, 4), ints(9, 3, 4), floats(3, 4) > 0
IMAGE, VOLUME = floats(2, 4, 9, 8), floats(2, 3, 5, 6, 7)
GROUPS = {
    "functions": (
        lambda x, p: (
            *(f(x) for f in (torch.abs, torch.ceil, torch.erf, torch.exp, torch.expm1, torch.round, torch.sign)),
            *(f(x) for f in (torch.sin, torch.cos, torch.tan, torch.tanh, torch.atan, torch.sinh, torch.trunc)),
            *(f(p) for f in (torch.log, torch.log2, torch.log1p, torch.sqrt, torch.rsqrt, torch.reciprocal)),
            torch.pow(2.0, x), x**2, x**3, p**-0.5, torch.atan2(x, p), torch.lerp(x, p, 0.3),
        ),
        (X, X.abs() + 0.1),
    ),
    "activations": (
        lambda x: (
            F.gelu(x), F.gelu(x, approximate="tanh"), F.silu(x), F.mish(x), F.softplus(x, 2, 5), F.leaky_relu(x),
            F.elu(x), F.hardswish(x), F.hardsigmoid(x), F.relu6(x), F.logsigmoid(x), F.hardtanh(x), F.glu(x, -1),
            F.prelu(x[None], x[:, 0]),
        ),
        (X * 5,),
    ),
    "integers": (
        lambda n, m: (
            (n - 5) // 3, (n - 5) % 3, torch.fmod(n - 5, 3), torch.div(n - 5, 2, rounding_mode="trunc"), n / 4, n >> 1,
            n << 2, n & m, n | m, ~n, n ^ m, n.sum(-1), n.max(), n.cumsum(1), n.argmax(-1), n > m, n.float() * 0.5,
        ),
        (N, ints(9, 3, 4) + 1),
    ),
    "choices": (
        lambda x, b: (
            torch.where(b, x, 0.0), x.masked_fill(b, -1e9), x.clamp(-0.5, 0.5), torch.nan_to_num(x / b), b & ~b[:, :1],
            torch.maximum(x, x[:1]), torch.isnan(x / 0), torch.isinf(x / 0), b.sum(-1), b.any(0), b.all(-1), b.float(),
            x.bool(), x.long(), torch.isfinite(x / b), x.half().float(),
        ),
        (X, B),
    ),
    "constants": (
        lambda x: (
            x.masked_fill(torch.tensor([True, False, True, True]), 2.0),
            x.masked_fill(torch.tensor([[True, False], [False, False]]).repeat(1, 2)[:1], 3.0),
            x + torch.tensor([1.5, -2.0, 0.0, 7.0]), x.bfloat16() * torch.tensor(0.5, dtype=torch.bfloat16),
            x[:, torch.tensor([3, 0])],
        ),
        (X,),
    ),
    "moves": (
        lambda x: (
            x.permute(2, 0, 1), x.mT, x.movedim(0, -1), x[:, None].expand(-1, 2, -1, -1), x.repeat(2, 1, 3),
            x.flip(0, 2),
            x.repeat_interleave(2, dim=1), x.roll((1, -2), (0, 2)), x.roll(3), F.pad(x, (1, -1, 0, 2),
            value=3.0), x.tril(),
            F.pad(x, (2, 1), mode="reflect"), F.pad(x, (2, 1), mode="replicate"), F.pad(x, (2, 1), mode="circular"),
            x.triu(1),
            x[:, 1:3], x[::2, :, -2:], x[1], x[..., -1], x.unbind(-1)[2], x.chunk(3, -1)[2], x.unfold(2, 3, 2),
            torch.cat([x, x[:1]]), torch.stack([x, x], -1), x.narrow(1, -2, 2), x.diagonal(0, 1, 2), x.flatten(1),
            torch.slice_scatter(x, x[:, :, :2], 2, 0, 4, 2), x.select_scatter(x[0], 0, -1),
            F.pixel_shuffle(x.mT[None, :, :, :].reshape(1, 4, 3, 5), 2),
        ),
        (floats(3, 4, 5),),
    ),
    "indexing": (
        lambda x, i: (
            F.embedding(i, x), x.gather(1, i % 4), x.index_select(1, i[0]),
            x[i], x[:, i - 2], x[i, i[0]], x[i[:, None], i],
            x.index_put((i[0], i[1]), x[0, 0]), x.index_put((i[0], i[0]), x[0, :3], accumulate=True),
            x.scatter(1, i, 0.5), x.scatter(1, i, x[:2, :3]), x.scatter_add(1, i, x[:2]), x.index_copy(0, i[0], x[:3]),
            x.index_add(0, i[1], x[:3], alpha=2), i.scatter(1, i % 3, i * 70000 - 9),
            aten.index_put(x, [None, i[0]], x[:, :3]),
        ),
        (floats(4, 4), torch.tensor([[0, 2, 1], [3, 0, 1]])),
    ),
    "orders": (
        lambda x, n: (
            *x.topk(2), *x.topk(2, dim=0, largest=False), *x.sort(-1), *x.sort(0, descending=True),
            *n.sort(dim=-1, stable=True),
            *x.max(1), *x.min(-1, keepdim=True), x.argmax(), n.argmin(0, keepdim=True), n.float().histc(4, 0, 8),
        ),
        (floats(4, 5), ints(4, 4, 5)),
    ),
    "reductions": (
        lambda x: (
            x.sum(), x.mean((1, 2)), x.amax(-1), x.amin((0, 1)), x.prod(-1), x.var(-1), x.std((0, 1), correction=0),
            x.softmax(-1), x.log_softmax(1), x.logsumexp(-1), x.cumsum(1), x.norm(dim=-1), F.normalize(x, dim=1),
            torch.linalg.vector_norm(x, 1, dim=0), torch.linalg.vector_norm(x, float("inf"), dim=0),
            x.bfloat16().sum(-1),
        ),
        (floats(3, 4, 5),),
    ),
    "products": (
        lambda x, y, v: (
            F.linear(x, y[0, 0].t()), x @ y, x @ v, v @ y, x[:, :1] @ y, torch.einsum("bhqd,bhdk->bhkq", x, y), v @ v,
            torch.addmm(v[:4], x[0, 0], y[0, 0], beta=0.5, alpha=2), torch.bmm(x[0], y[0]), torch.mv(x[0, 0], v),
            torch.baddbmm(x[0, :, :, :4], x[0], y[0], alpha=0.5), x.bfloat16() @ y.bfloat16(),
        ),
        (floats(2, 3, 4, 5), floats(2, 3, 5, 4), floats(5)),
    ),
    "norms": (
        lambda x, w: (
            F.layer_norm(x, (4,), w, w), F.layer_norm(x, (3, 4)), F.rms_norm(x, (4,), w), F.rms_norm(x, (3, 4)),
            F.group_norm(x.mT, 2, w, w), F.instance_norm(x), F.batch_norm(x.mT, w, w.abs() + 0.1, w, w),
        ),
        (floats(2, 3, 4), floats(4)),
    ),
    "convolutions": (
        lambda x, w, t: (
            F.conv2d(x, w, stride=2, padding=(1, 0), groups=2), F.conv2d(x, w, padding="same", groups=2, dilation=2),
            F.conv1d(x[:, :, 0], w[:, :, 0], groups=2), F.conv_transpose2d(x, t, stride=2, padding=1, output_padding=1),
            F.conv_transpose2d(x, t, stride=2, dilation=2, groups=2), F.conv1d(x[0, :, 0], w[:, :, 0], groups=2),
        ),
        (IMAGE, floats(6, 2, 3, 3), floats(4, 3, 3, 3)),
    ),
    "pooling": (
        lambda x, v: (
            F.max_pool2d(x, 3, 2, 1), F.max_pool2d(x, 3, 2, 1, dilation=2), F.max_pool2d(x, 2, ceil_mode=True),
            F.avg_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
            F.avg_pool1d(x[0], 3, 2, 1, True),
            F.avg_pool2d(x, 2, ceil_mode=True), F.adaptive_avg_pool2d(x, 1), F.adaptive_avg_pool2d(x, (4, 3)),
            F.avg_pool2d(x, 2, divisor_override=3), F.avg_pool3d(v, 2), F.max_pool3d(v, 2),
        ),
        (IMAGE, VOLUME),
    ),
    "resizing": (
        lambda x: (
            F.interpolate(x, (6, 9), mode="bilinear"), F.interpolate(x, (6, 9), mode="bilinear", align_corners=True),
            F.interpolate(x, scale_factor=2, mode="nearest"), F.interpolate(x, (9, 7), mode="bicubic"),
            F.interpolate(x, scale_factor=1.7, mode="bilinear"), F.interpolate(x[0], 11, mode="linear"),
        ),
        (floats(2, 3, 4, 5),),
    ),
    "attention": (
        lambda q, k, m: (
            F.scaled_dot_product_attention(q, q, q), F.scaled_dot_product_attention(q, q, q, is_causal=True),
            F.scaled_dot_product_attention(q, q, q, attn_mask=m),
            F.scaled_dot_product_attention(q[0], q[0], q[0], scale=1.0),
            F.scaled_dot_product_attention(q, k, k, enable_gqa=True),
            F.scaled_dot_product_attention(q, q, q, m.float()),
        ),
        (floats(2, 4, 5, 8), floats(2, 2, 5, 8), ints(3, 5, 5) > 0),
    ),
}  # fmt: skip


SLOW = ("functions", "activations", "moves", "convolutions", "pooling", "resizing", "norms")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in GROUPS])
def test_ops(name):
    function, args = GROUPS[name]
    program = gw.capture(Call(function), args, dynamic=None)
    expected = Interface.of(program).results(function(*args))
    artifact = gw.target("neuron{device=trn2}").lower(program)
    found = artifact.run(**dict(zip(artifact.input_names, args, strict=True)))
    for key, want in expected.items():
        half = want.dtype is torch.bfloat16
        torch.testing.assert_close(
            found[key], want, rtol=2e-2 if half else 1e-5, atol=1e-2 if half else 1e-5, equal_nan=True
        )


def test_emitters_take_the_arguments_of_their_ops():
    for op, emitters in load_table().emitters.items():
        if isinstance(op, OpOverload):
            names = [argument.name for argument in op._schema.arguments]
            for emitter in emitters:
                inspect.signature(emitter.emit).bind(None, **dict.fromkeys(names))
