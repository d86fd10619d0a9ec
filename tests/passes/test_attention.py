"""Attention in many spellings becomes one op with the same result; what is no attention stays as it is."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn

from graphwright.ir.node import is_call
from graphwright.ir.verify import verify
from graphwright.passes.pipeline import Pipeline

aten = torch.ops.aten
F64, F32 = torch.float64, torch.float32
FUSE = "canonicalize,fuse-attention,canonicalize"
LOWEST = torch.finfo(F32).min


def tensor(*shape, seed=0, dtype=F64):
    """Large enough values that the softmax is far from uniform."""
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64) * 2).to(dtype)


def qkv(batch=2, heads=4, queries=5, keys=5, width=8, kv_heads=None, value_width=None, dtype=F64):
    kv = kv_heads or heads
    return (
        tensor(batch, heads, queries, width, seed=1, dtype=dtype),
        tensor(batch, kv, keys, width, seed=2, dtype=dtype),
        tensor(batch, kv, keys, value_width or width, seed=3, dtype=dtype),
    )


def padding(batch=2, keys=5):
    """True where a key counts: right, left and scattered padding."""
    keep = torch.ones(batch, keys, dtype=torch.bool)
    keep[0, -2:] = False
    if batch > 1:
        keep[1, 0] = keep[1, 2] = False
    return keep


def fuse(made, pipeline=FUSE):
    result = Pipeline(pipeline).run(made)
    verify(result.program)
    return result


def attentions(program):
    return [n for n in program.nodes if is_call(n, aten.scaled_dot_product_attention)]


def assert_fused(made, *calls, atol=1e-10, count=1, pipeline=FUSE):
    """All attention is fused, and the results are those of the unfused program; returns the fused nodes."""
    result = fuse(made, pipeline)
    assert len(attentions(result.program)) == count, result.misses
    assert not [n for n in result.program.nodes if is_call(n, aten.softmax)], result.misses
    for call in calls:
        want, have = made.run(*call), result.program.run(*call)
        assert want.isfinite().all()
        assert want.dtype == have.dtype
        assert (want - have).abs().max() <= atol * max(1.0, want.abs().max())
    return attentions(result.program)


def argument(node, name):
    names = ["query", "key", "value", "attn_mask", "dropout_p", "is_causal"]
    values = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    return values.get(name, {"attn_mask": None, "dropout_p": 0.0, "is_causal": False}.get(name))


def softmax(scores):
    return torch.softmax(scores, -1)


def scores_of(q, k):
    return q @ k.transpose(-1, -2)


# ---- where the scale is ----------------------------------------------------------------------

SCALES = {
    "none": (lambda q, k, v: softmax(scores_of(q, k)) @ v, 1.0),
    "on the scores": (lambda q, k, v: softmax(scores_of(q, k) * 0.3) @ v, 0.3),
    "from the left": (lambda q, k, v: softmax(0.3 * scores_of(q, k)) @ v, 0.3),
    "as a division": (lambda q, k, v: softmax(scores_of(q, k) / math.sqrt(8)) @ v, 8**-0.5),
    "on the query": (lambda q, k, v: softmax((q * 0.3) @ k.transpose(-1, -2)) @ v, 1.0),
    "on both": (lambda q, k, v: softmax((q * 0.5) @ (k * 0.5).transpose(-1, -2)) @ v, 1.0),
    "twice": (lambda q, k, v: softmax(scores_of(q, k) * 0.5 / 2) @ v, 0.25),
    "as a constant tensor": (lambda q, k, v: softmax(scores_of(q, k) / torch.tensor(4.0, dtype=F64)) @ v, 0.25),
    "as a root of a tensor": (lambda q, k, v: softmax(scores_of(q, k) / torch.tensor(8.0).sqrt()) @ v, None),
    "from the size": (lambda q, k, v: softmax(scores_of(q, k) / q.size(-1) ** 0.5) @ v, 8**-0.5),
    "negative": (lambda q, k, v: softmax(scores_of(q, k) * -0.3) @ v, -0.3),
    "after the mask": (lambda q, k, v: softmax((scores_of(q, k) + k.sum(-1)[:, :, None]) * 0.5) @ v, 0.5),
    "in place": (lambda q, k, v: softmax(scores_of(q, k).mul_(0.3)) @ v, 0.3),
    "per query": (lambda q, k, v: softmax(scores_of(q, k) * q.sum(-1, keepdim=True)) @ v, 1.0),
    "per query and after a bias": (
        lambda q, k, v: softmax((scores_of(q, k) + k.sum(-1)[:, :, None]) * q.sum(-1, keepdim=True)) @ v,
        1.0,
    ),
}


@pytest.mark.parametrize("name", SCALES)
def test_the_scale_may_be_anywhere(trace, name):
    function, scale = SCALES[name]
    made = trace(function, *qkv(), dynamic=(0, 2))
    (node,) = assert_fused(
        made, qkv(), qkv(1, queries=3, keys=3), qkv(3, queries=7, keys=7), atol=1e-10 if scale else 1e-6
    )
    if scale is not None:
        assert node.kwargs["scale"] == pytest.approx(scale, rel=1e-12)


def test_a_learned_scale_stays_learned(trace):
    per_head = nn.Parameter(torch.rand(4, 1, 1, dtype=F64))
    made = trace(lambda m, q, k, v: softmax(scores_of(q, k) * m.scale) @ v, *qkv(), scale=per_head)
    assert_fused(made, qkv())
    grads = []
    for program in (made, fuse(made).program):
        (grad,) = torch.autograd.grad(program.run(*qkv()).square().sum(), [per_head])
        grads.append(grad)
    assert torch.allclose(*grads, rtol=1e-9)


@pytest.mark.parametrize("shape", [(), (1,), (4, 1, 1), (1, 1, 1, 1)])
def test_a_learned_scale_of_any_shape(trace, shape):
    scale = nn.Parameter(torch.rand(shape, dtype=F64))
    made = trace(lambda m, q, k, v: softmax(scores_of(q, k) * m.scale) @ v, *qkv(), scale=scale)
    assert_fused(made, qkv())


def test_a_factor_per_key_is_no_scale(trace):
    made = trace(lambda q, k, v: softmax(scores_of(q, k) * k.sum(-1)[:, :, None]) @ v, *qkv(keys=6))
    result = fuse(made)
    assert torch.allclose(result.program.run(*qkv(keys=6)), made.run(*qkv(keys=6)), rtol=1e-12)


# ---- masks -----------------------------------------------------------------------------------


def later(s, n):
    """True where the key is at least n places after the query."""
    return torch.arange(s.shape[-1])[None] - torch.arange(s.shape[-2])[:, None] >= n


LOWEST64 = torch.finfo(F64).min
MASKS = {
    "added": lambda s, m: s + torch.where(m, 0.0, LOWEST),
    "added, computed": lambda s, m: s + (1.0 - m.double()) * -1e4,
    "added from the left": lambda s, m: (1.0 - m.double()) * LOWEST + s,
    "subtracted": lambda s, m: s - (1.0 - m.double()) * 1e9,
    "filled with -inf": lambda s, m: s.masked_fill(~m, -math.inf),
    "filled with the lowest": lambda s, m: s.masked_fill(~m, torch.finfo(s.dtype).min),
    "filled with -1e9": lambda s, m: s.masked_fill(m == 0, -1e9),
    "filled in place": lambda s, m: s.masked_fill_(~m, -1e9),
    "where": lambda s, m: torch.where(m, s, -1e9),
    "where, the other way": lambda s, m: torch.where(~m, -math.inf, s),
    "where with a tensor": lambda s, m: torch.where(m, s, torch.full([], -1e9, dtype=F64)),
    "where with a literal": lambda s, m: torch.where(m, s, torch.tensor(LOWEST, dtype=F64)),
    "expanded": lambda s, m: s.masked_fill(~m.expand(s.shape), -1e9),
    "a bias, then filled": lambda s, m: (s + 0.1 * m.mT).masked_fill(~m, -1e9),
    "three added": lambda s, m: s + m.mT * 0.5 + m * 0.25 + (~m) * -1e4,
    "filled twice": lambda s, m: s.masked_fill(~m, -1e9).masked_fill(later(s, 3), -1e9),
    "filled, then added": lambda s, m: s.masked_fill(~m, LOWEST) + m.mT * 0.5,
    "added, then clamped": lambda s, m: torch.max(s + (~m) * -1e9, torch.tensor(LOWEST64, dtype=F64)),
    "added, then clamped in another way": lambda s, m: torch.clamp(s + (~m) * -1e9, min=LOWEST64),
    "filled, then scaled": lambda s, m: s.masked_fill(~m, -1e9) * 0.5,
    "filled with -inf, then with a number": lambda s, m: s.masked_fill(later(s, 2), -math.inf).masked_fill(~m, -1e9),
    "filled with a number, then with -inf": lambda s, m: s.masked_fill(~m, -1e9).masked_fill(later(s, 4), -math.inf),
    "shifted": lambda s, m: s.masked_fill(~m, -1e9) - m.sum(-1, keepdim=True),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_in_any_spelling(trace, name):
    def attend(q, k, v, keep):
        return softmax(MASKS[name](scores_of(q, k) * 0.3, keep[:, None, None, :])) @ v

    calls = [(*qkv(), padding()), (*qkv(), torch.ones(2, 5, dtype=torch.bool))]
    assert_fused(trace(attend, *calls[0]), *calls)


@pytest.mark.parametrize("name", MASKS)
def test_masks_with_dynamic_sizes(trace_module, name):
    class Attend(nn.Module):
        def forward(self, q, k, v, keep):
            return softmax(MASKS[name](scores_of(q, k) * 0.3, keep[:, None, None, :])) @ v

    from graphwright.ir.program import Program
    from graphwright.ir.signature import Example

    inputs = (*qkv(), padding())
    auto = torch.export.Dim.AUTO
    shapes = ({0: auto, 2: auto}, {0: auto, 2: auto}, {0: auto, 2: auto}, {0: auto, 1: auto})
    exported = torch.export.export(Attend(), inputs, dynamic_shapes=shapes, strict=False)
    made = Program.from_exported(exported, example=Example(inputs))
    assert_fused(made, inputs, (*qkv(3, queries=7, keys=7), padding(3, 7)), (*qkv(1), padding(1)))


@pytest.mark.parametrize(
    "shape", [(5, 5), (1, 5), (5, 1), (2, 1, 5, 5), (1, 4, 5, 5), (2, 4, 1, 5), (4, 5, 5), (5,), ()]
)
def test_a_bias_of_any_broadcastable_shape(trace, shape):
    bias = tensor(*shape, seed=9)
    made = trace(lambda q, k, v, bias: softmax(scores_of(q, k) * 0.3 + bias) @ v, *qkv(), bias)
    assert_fused(made, (*qkv(), bias))


@pytest.mark.parametrize("fill", [-1e4, -1e9, LOWEST])
@pytest.mark.parametrize("dtype", [F32, F64])
def test_a_fully_masked_row_with_a_finite_fill_is_uniform(trace, fill, dtype):
    keep = padding()
    keep[0] = False

    def attend(q, k, v, keep):
        return softmax((scores_of(q, k) * 0.3).masked_fill(~keep[:, None, None, :], fill)) @ v

    inputs = (*qkv(dtype=dtype), keep)
    made = trace(attend, *inputs)
    assert torch.allclose(made.run(*inputs)[0, :, 0], inputs[2][0].mean(1), atol=1e-5)
    assert_fused(made, inputs, atol=1e-10 if dtype == F64 else 1e-5)


def test_a_fully_masked_row_with_an_added_mask_keeps_its_scores(trace):
    keep = padding()
    keep[0] = False

    def attend(q, k, v, keep):
        return softmax(scores_of(q, k) * 0.3 + (~keep)[:, None, None, :] * -1e9) @ v

    inputs = (*qkv(), keep)
    # 1e9 leaves scores a precision of 1e-7 in float64
    assert_fused(trace(attend, *inputs), inputs, atol=1e-6)


def test_a_fully_masked_row_with_infinite_fill_stays_undefined(trace):
    keep = padding()
    keep[0] = False

    def attend(q, k, v, keep):
        return softmax((scores_of(q, k)).masked_fill(~keep[:, None, None, :], -math.inf)) @ v

    inputs = (*qkv(), keep)
    made = trace(attend, *inputs)
    result = fuse(made).program
    assert len(attentions(result)) == 1
    assert made.run(*inputs)[0].isnan().all()
    assert torch.allclose(result.run(*inputs)[1], made.run(*inputs)[1], rtol=1e-10)


HARD_ROWS = {
    "filled, then a bias added": lambda s, m, b: s.masked_fill(~m, -1e9) + b,
    "filled, then scaled up": lambda s, m, b: s.masked_fill(~m, -1e9) * 4,
    "filled, then divided by little": lambda s, m, b: s.masked_fill(~m, LOWEST) / 0.25,
    "filled, then scaled per query": lambda s, m, b: s.masked_fill(~m, -1e9) * (1 + b[..., :1].abs()),
    "filled with two numbers": lambda s, m, b: s.masked_fill(~m, -1e9).masked_fill(b > 0, -1e4),
    "filled and added": lambda s, m, b: torch.where(b > 0, s, LOWEST) + torch.where(m, 0.0, LOWEST),
    "filled with -1e4, -1e9 added": lambda s, m, b: s.masked_fill(b > 0, -1e4) + torch.where(m, 0.0, -1e9),
    "negated": lambda s, m, b: -(s.masked_fill(~m, -1e9)),
}


@pytest.mark.parametrize("name", HARD_ROWS)
@pytest.mark.parametrize("dtype", [F32, F64])
def test_fully_masked_rows_stay_what_they_were_whatever_follows_the_fill(trace, name, dtype):
    """Fused or not, the result is the same."""
    keep = padding()
    keep[0] = False

    def attend(q, k, v, keep, b):
        return softmax(HARD_ROWS[name](scores_of(q, k) * 0.3, keep[:, None, None, :], b)) @ v

    inputs = (*qkv(dtype=dtype), keep, tensor(2, 1, 5, 5, seed=7, dtype=dtype))
    made = trace(attend, *inputs)
    want, have = made.run(*inputs), fuse(made).program.run(*inputs)
    defined = ~want.isnan()
    assert torch.allclose(want[defined], have[defined], atol=1e-10 if dtype == F64 else 1e-5)


ZEROED = {
    "the same mask": lambda m, b: m,
    "another mask": lambda m, b: m & (b < 1),
    "a wider mask": lambda m, b: m | (b > 1),
}


@pytest.mark.parametrize("name", ZEROED)
@pytest.mark.parametrize("fill", [-1e9, LOWEST, -math.inf])
def test_probabilities_set_to_zero_after_the_softmax(trace, name, fill):
    """Fused or not, the result is the same; with the same mask, fully masked rows are 0."""
    keep = padding()
    keep[0] = False

    def attend(q, k, v, keep, b):
        keep = keep[:, None, None, :]
        weights = softmax((scores_of(q, k) * 0.3).masked_fill(~keep, fill))
        return weights.masked_fill(~ZEROED[name](keep, b), 0) @ v

    inputs = (*qkv(), keep, tensor(2, 1, 5, 5, seed=7))
    made = trace(attend, *inputs)
    want, have = made.run(*inputs), fuse(made).program.run(*inputs)
    defined = ~want.isnan()
    assert torch.allclose(want[defined], have[defined], atol=1e-10)


# ---- products --------------------------------------------------------------------------------


def flat(t):
    return t.reshape(-1, *t.shape[2:])


PRODUCTS = {
    "bmm": lambda q, k, v: torch.bmm(softmax(torch.bmm(flat(q), flat(k).transpose(1, 2)) * 0.3), flat(v)),
    "bmm of views": lambda q, k, v: torch.bmm(softmax(torch.bmm(flat(q), flat(k).mT)), flat(v)).view(q.shape),
    "scores reshaped for the mask": lambda q, k, v: torch.bmm(
        softmax(
            (torch.bmm(flat(q), flat(k).mT).view(2, 4, 5, 5) + k.sum((1, 3))[:, None, None]).view(8, 5, 5)
        ),
        flat(v),
    ).view(2, 4, 5, 8),
    "probabilities reshaped": lambda q, k, v: torch.bmm(softmax(scores_of(q, k)).view(8, 5, 5), flat(v)).view(q.shape),
    "five dims": lambda q, k, v: (
        softmax(scores_of(q.view(2, 2, 2, 5, 8), k.view(2, 2, 2, 5, 8)) * 0.3) @ v.view(2, 2, 2, 5, 8)
    ).view(2, 4, 5, 8),
    "three dims": lambda q, k, v: softmax(scores_of(q[0], k[0]) * 0.3) @ v[0],
    "baddbmm": lambda q, k, v: torch.bmm(
        softmax(torch.baddbmm(flat(k).sum(2)[:, None], flat(q), flat(k).mT, beta=0.5, alpha=0.3)), flat(v)
    ),
    "baddbmm without bias": lambda q, k, v: torch.bmm(
        softmax(torch.baddbmm(torch.empty(8, 5, 5, dtype=F64), flat(q), flat(k).mT, beta=0, alpha=0.3)), flat(v)
    ),
    "einsum": lambda q, k, v: torch.einsum(
        "bhij,bhjd->bhid", softmax(torch.einsum("bhid,bhjd->bhij", q, k) * 0.3), v
    ),
    "einsum of heads last": lambda q, k, v: torch.einsum(
        "bhij,bjhd->bihd",
        softmax(torch.einsum("bihd,bjhd->bhij", q.transpose(1, 2), k.transpose(1, 2)) * 0.3),
        v.transpose(1, 2),
    ),
    "key transposed long before": lambda q, k, v: softmax(q @ k.permute(0, 1, 3, 2).contiguous() * 0.3) @ v,
    "heads split and merged": lambda q, k, v: (
        softmax(scores_of(q, k) * 0.3) @ v
    ).transpose(1, 2).contiguous().view(2, 5, 32),
    "softmax over dim 3": lambda q, k, v: torch.softmax(scores_of(q, k), 3) @ v,
    "minus the maximum": lambda q, k, v: softmax((s := scores_of(q, k)) - s.amax(-1, keepdim=True)) @ v,
    "functional softmax": lambda q, k, v: nn.functional.softmax(scores_of(q, k), dim=-1) @ v,
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_in_any_spelling(trace, name):
    assert_fused(trace(PRODUCTS[name], *qkv()), qkv())


@pytest.mark.parametrize("keys", [1, 3, 9])
@pytest.mark.parametrize("value_width", [8, 3])
def test_cross_attention_and_narrow_values(trace, keys, value_width):
    inputs = qkv(keys=keys, value_width=value_width)
    made = trace(lambda q, k, v: softmax(scores_of(q, k) * 0.3) @ v, *inputs)
    assert_fused(made, inputs)


def test_a_bias_that_is_itself_a_product(trace):
    """Relative positions: two products lead to the softmax, one is the scores."""

    def attend(q, k, v, r):
        return softmax(scores_of(q, k) * 0.3 + q @ r.transpose(-1, -2)) @ v

    inputs = (*qkv(), tensor(5, 8, seed=5))
    assert_fused(trace(attend, *inputs), inputs)


def test_several_attentions_share_a_mask(trace):
    def attend(q, k, v, keep):
        bias = torch.where(keep, 0.0, -1e9)[:, None, None, :]
        once = softmax(scores_of(q, k) * 0.3 + bias) @ v
        return softmax(scores_of(once, k) * 0.3 + bias) @ v

    inputs = (*qkv(), padding())
    assert_fused(trace(attend, *inputs), inputs, count=2)


# ---- heads -----------------------------------------------------------------------------------


def repeat_kv(t, times):
    b, h, s, d = t.shape
    return t[:, :, None].expand(b, h, times, s, d).reshape(b, h * times, s, d)


REPEATS = {
    "expand": lambda t: repeat_kv(t, 2),
    "repeat_interleave": lambda t: t.repeat_interleave(2, dim=1),
    "repeat_interleave, negative": lambda t: torch.repeat_interleave(t, 2, -3),
}


@pytest.mark.parametrize("name", REPEATS)
def test_repeated_heads_become_grouped_attention(trace, name):
    repeat = REPEATS[name]
    made = trace(lambda q, k, v: softmax(scores_of(q, repeat(k)) * 0.3) @ repeat(v), *qkv(kv_heads=2), dynamic=(0, 2))
    (node,) = assert_fused(made, qkv(kv_heads=2), qkv(1, kv_heads=2, queries=3, keys=3))
    assert node.kwargs["enable_gqa"] is True
    assert node.args[1].meta["val"].shape[1] == 2
    (node,) = assert_fused(made, qkv(kv_heads=2), pipeline="canonicalize,fuse-attention{grouped=false}")
    assert "enable_gqa" not in node.kwargs


NO_GROUPS = {
    "tiled": lambda t: t.repeat(1, 2, 1, 1),
    "tiled by expand": lambda t: t[:, None].expand(2, 2, 2, 5, 8).reshape(2, 4, 5, 8),
    "repeated along the keys": lambda t: torch.cat([t, t], 1).repeat_interleave(1, 1),
}


@pytest.mark.parametrize("name", NO_GROUPS)
def test_heads_in_another_order_are_not_grouped(trace, name):
    repeat = NO_GROUPS[name]
    made = trace(lambda q, k, v: softmax(scores_of(q, repeat(k)) * 0.3) @ repeat(v), *qkv(kv_heads=2))
    assert_fused(made, qkv(kv_heads=2))


def test_only_keys_repeated(trace):
    made = trace(lambda q, k, v: softmax(scores_of(q, repeat_kv(k, 2)) * 0.3) @ v.repeat(1, 2, 1, 1), *qkv(kv_heads=2))
    assert_fused(made, qkv(kv_heads=2))


def test_multi_query(trace):
    made = trace(lambda q, k, v: softmax(scores_of(q, k) * 0.3) @ v, *qkv(kv_heads=1), dynamic=(0, 2))
    assert_fused(made, qkv(kv_heads=1), qkv(1, kv_heads=1, queries=2, keys=2))


def test_batch_of_keys_is_one(trace):
    q, _, _ = qkv()
    _, k, v = qkv(batch=1)
    made = trace(lambda q, k, v: softmax(scores_of(q, k) * 0.3) @ v, q, k, v)
    assert_fused(made, (q, k, v))


# ---- dtypes and dropout ----------------------------------------------------------------------


def test_softmax_in_float32(trace):
    def attend(q, k, v):
        return nn.functional.softmax(scores_of(q, k) * 0.3, dim=-1, dtype=F32).to(q.dtype) @ v

    # the original rounds its probabilities to float32
    assert_fused(trace(attend, *qkv()), qkv(), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_with_float32_inside(trace, dtype):
    def attend(q, k, v, keep):
        scores = (q.float() @ k.float().transpose(-1, -2)) * 0.3
        scores = scores.masked_fill(~keep[:, None, None, :], LOWEST)
        return softmax(scores).to(v.dtype) @ v

    inputs = (*qkv(dtype=dtype), padding())
    # probabilities are rounded to the half type before they meet the values
    assert_fused(trace(attend, *inputs), inputs, atol=2e-2 if dtype == torch.bfloat16 else 2e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_with_a_mask_of_another_dtype(trace, dtype):
    def attend(q, k, v, bias):
        return softmax((scores_of(q, k) * 0.3).float() + bias).to(v.dtype) @ v

    inputs = (*qkv(dtype=dtype), torch.where(padding(), 0.0, LOWEST)[:, None, None])
    assert_fused(trace(attend, *inputs), inputs, atol=2e-2 if dtype == torch.bfloat16 else 2e-3)


def test_active_dropout_stays_active(trace):
    made = trace(lambda q, k, v: torch.dropout(softmax(scores_of(q, k)), 0.25, True) @ v, *qkv())
    result = fuse(made).program
    (node,) = attentions(result)
    assert argument(node, "dropout_p") == 0.25
    assert not torch.equal(result.run(*qkv()), result.run(*qkv()))


def test_inactive_dropout_goes(trace):
    made = trace(lambda q, k, v: torch.dropout(softmax(scores_of(q, k)), 0.25, False) @ v, *qkv())
    (node,) = assert_fused(made, qkv())
    assert argument(node, "dropout_p") == 0


def test_two_dropouts_are_not_one(trace):
    def attend(q, k, v):
        return torch.dropout(torch.dropout(softmax(scores_of(q, k)), 0.25, True), 0.5, True) @ v

    assert not attentions(fuse(trace(attend, *qkv())).program)


def test_gradients(trace):
    def attend(q, k, v, keep):
        return softmax((scores_of(q, k) * 0.3).masked_fill(~keep[:, None, None, :], -1e9)) @ v

    inputs = (*qkv(), padding())
    made = trace(attend, *inputs)
    grads = []
    for program in (made, fuse(made).program):
        leaves = [t.clone().requires_grad_() for t in inputs[:3]]
        grads.append(torch.autograd.grad(program.run(*leaves, inputs[3]).square().sum(), leaves))
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-10)


# ---- what is no attention --------------------------------------------------------------------


def chosen(k):
    """Some of the keys."""
    return k[:, :, None, :, 0] > 0


def two_scores(q, k, v):
    return softmax(torch.where(q[:, :, :, :1] > 0, scores_of(q, k), k.sum(-1)[:, :, None])) @ v


MISSES = {
    "returned": (lambda q, k, v: ((p := softmax(scores_of(q, k))) @ v, p), "the program returns it"),
    "used elsewhere": (lambda q, k, v: ((p := softmax(scores_of(q, k))) @ v) + p.sum(-1, keepdim=True), "2 users"),
    "over the queries": (lambda q, k, v: torch.softmax(scores_of(q, k), -2) @ v, "over dim"),
    "over the heads": (lambda q, k, v: torch.softmax(scores_of(q, k), 1) @ v, "over dim"),
    "scores returned": (lambda q, k, v: (softmax(s := scores_of(q, k)) @ v, s), "2 users"),
    "scores used": (lambda q, k, v: softmax((s := scores_of(q, k) * 0.3) + s.mean(-1, True)) @ v, "users"),
    "squared scores": (lambda q, k, v: softmax(scores_of(q, k).square()) @ v, "square"),
    "relu of the scores": (lambda q, k, v: softmax(scores_of(q, k).relu()) @ v, "relu"),
    "clamped scores": (lambda q, k, v: softmax(scores_of(q, k).clamp(-1, 1)) @ v, "clamp"),
    "clamped from below": (lambda q, k, v: softmax(scores_of(q, k).clamp_min(-1)) @ v, "clamp_min"),
    "mask after the softmax": (lambda q, k, v: softmax(scores_of(q, k)).masked_fill(chosen(k), 0) @ v, "masked_fill"),
    "scaled probabilities": (lambda q, k, v: (softmax(scores_of(q, k)) * 2) @ v, "mul"),
    "sum of probabilities": (lambda q, k, v: (softmax(scores_of(q, k)) + softmax(scores_of(k, q))) @ v, "add"),
    "values on the left": (lambda q, k, v: v.transpose(-1, -2) @ softmax(scores_of(q, k)), "matmul"),
    "transposed probabilities": (lambda q, k, v: softmax(scores_of(q, k)).transpose(-1, -2) @ v, "transpose"),
    "positive fill": (lambda q, k, v: softmax(scores_of(q, k).masked_fill(chosen(k), 1e9)) @ v, "masked_fill"),
    "small fill": (lambda q, k, v: softmax(scores_of(q, k).masked_fill(chosen(k), -1.0)) @ v, "masked_fill"),
    "fill of zero": (lambda q, k, v: softmax(scores_of(q, k).masked_fill(chosen(k), 0)) @ v, "masked_fill"),
    "where of two scores": (two_scores, "where"),
    "division by a tensor per key": (lambda q, k, v: softmax(scores_of(q, k) / k.sum(-1)[:, :, None]) @ v, "div"),
    "reshaped keys": (lambda q, k, v: softmax(scores_of(q, k).reshape(2, 4, 25, 1)).reshape(2, 4, 5, 5) @ v, None),
    "no product": (lambda q, k, v: softmax(q[..., :5] + k[..., :5]) @ v, "no step"),
    "an input": (lambda q, k, v: softmax(q[..., :5] * 1.5) @ v, None),
    "router": (lambda q, k, v: softmax(q @ k.mean((0, 1, 2))[:, None].expand(8, 5))[..., :2].sum(-1), None),
    "log softmax": (lambda q, k, v: torch.log_softmax(scores_of(q, k), -1) @ v, None),
}  # fmt: skip


@pytest.mark.parametrize("name", MISSES)
def test_what_is_no_attention_stays(trace, name):
    function, reason = MISSES[name]
    made = trace(function, *qkv())
    result = fuse(made)
    assert not attentions(result.program)
    want, have = made.run(*qkv()), result.program.run(*qkv())
    for a, b in zip(torch.utils._pytree.tree_leaves(want), torch.utils._pytree.tree_leaves(have), strict=True):
        assert torch.equal(a, b)
    if reason is not None:
        assert any(reason in str(miss) for miss in result.misses), result.misses


def test_a_miss_names_node_reason_and_line(trace_module):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Identity()

        def forward(self, q, k, v):
            return torch.softmax(torch.relu(q @ k.transpose(-1, -2)), -1) @ v

    (miss,) = fuse(trace_module(Net(), *qkv())).misses
    assert miss.culprit.name == "relu"
    assert miss.root.name == "softmax"
    assert "relu is no step from a product of queries and keys to a softmax" in miss.reason
    assert miss.source.startswith("test_attention.py:")
    assert miss.expected == "q @ k^T"


def test_expect_all_warns_with_the_misses(trace):
    made = trace(lambda q, k, v: softmax(scores_of(q, k).relu()) @ v, *qkv())
    with pytest.warns(UserWarning, match=r"left 1 attention\(s\) unfused") as caught:
        Pipeline("canonicalize,fuse-attention{expect=all}").run(made)
    assert "relu" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Pipeline("canonicalize,fuse-attention").run(made)
        Pipeline("canonicalize,fuse-attention{expect=all}").run(
            trace(lambda q, k, v: softmax(scores_of(q, k)) @ v, *qkv())
        )


def test_fusing_again_changes_nothing(trace):
    made = trace(lambda q, k, v: softmax(scores_of(q, k)) @ v, *qkv())
    once = fuse(made).program
    again = Pipeline("fuse-attention").run(once)
    assert not again.trace.records[0].changed


def test_attention_that_was_fused_by_hand_stays(trace):
    attend = nn.functional.scaled_dot_product_attention
    made = trace(lambda q, k, v: attend(q, k, v, scale=0.3), *qkv())
    assert_fused(made, qkv())
