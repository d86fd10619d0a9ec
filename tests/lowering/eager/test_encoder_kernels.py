"""Kernels of encoders: where they are placed, that the program computes the same, and what they compute on a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphwright import Pipeline, capture
from graphwright.ir.packing import token_plan, varlen_attention
from graphwright.lowering.eager.flat import flat_function
from graphwright.lowering.eager.kernels import activated_linear, packed_plan, residual_norm
from graphwright.lowering.eager.kernels.packed_attention import packed_attention
from graphwright.lowering.eager.kernels.place import place_kernels

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels run on NVIDIA GPUs")
HALVES = [torch.float16, torch.bfloat16]
ROUNDING = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}  # one rounding of the largest element, twice for the sum


class Block(nn.Module):
    """Pre-norm and post-norm halves, a norm without a residual, and activations on linears."""

    def __init__(self, gelu="none"):
        super().__init__()
        self.first, self.second, self.last = nn.LayerNorm(24), nn.RMSNorm(24, eps=1e-6), nn.LayerNorm(24)
        self.up, self.down, self.gate = nn.Linear(24, 40), nn.Linear(40, 24), nn.Linear(24, 24, bias=False)
        self.gelu = nn.GELU(gelu)

    def forward(self, x):
        x = self.first(x)
        x = x + self.down(self.gelu(self.up(x)))  # used twice: by the norm, and by the sum after it
        y = x + torch.relu(self.gate(self.second(x)))
        return self.last(y), torch.sigmoid(self.gate(y)), nn.functional.silu(self.up(y))


def _names(program):
    return [getattr(node.target, "__name__", "") for node in program.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("gelu", ["none", "tanh"])
def test_placed_kernels_compute_the_same(gelu):
    torch.manual_seed(0)
    model = Block(gelu).double().eval()
    for parameter in model.parameters():
        parameter.data.normal_()
    x = torch.randn(2, 5, 24, dtype=torch.float64)
    program = Pipeline("canonicalize,fuse-norm").run(capture(model, {"x": x}), validate=False).program
    placed = place_kernels(program, device="cpu", dtypes=[torch.float64])
    names = _names(placed)
    assert names.count("residual_norm") == 3 and names.count("activated_linear") == 5
    assert not {"layer_norm.default", "rms_norm.default", "gelu.default", "relu.default"} & set(names)
    with torch.no_grad():
        for want, have in zip(flat_function(program)([x]), flat_function(placed)([x]), strict=True):
            torch.testing.assert_close(have, want, rtol=0, atol=1e-12)


def test_programs_without_work_for_kernels_stay():
    program = capture(Block().eval(), {"x": torch.randn(2, 5, 24)})
    assert place_kernels(program) is program


def test_an_activation_of_a_shared_linear_stays():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x):
            y = self.linear(x)
            return torch.relu(y) + y

    program = Pipeline("canonicalize").run(capture(Shared(), {"x": torch.randn(3, 8)}), validate=False).program
    assert "relu.default" in _names(place_kernels(program, device="cpu", dtypes=[torch.float32]))


@pytest.mark.parametrize("first", [False, True])
def test_plans_of_fixed_size_begin_like_those_of_any_size(first):
    keep = torch.rand(5, 9, generator=torch.Generator().manual_seed(0)) > 0.5
    keep[2] = False
    tokens, offsets, keys, key_offsets = token_plan(keep, first=first)
    count, key_count = tokens.numel(), keys.numel()
    for size in (count, count + 7, 45):
        plan = packed_plan.packed_plan(keep, size, first)
        assert torch.equal(plan[0][:count], tokens) and not plan[0][count:].any()
        assert torch.equal(plan[1], offsets) and torch.equal(plan[3], key_offsets)
        assert torch.equal(plan[2][:key_count], keys)
        assert torch.equal(plan[4], packed_plan.token_sources(tokens, keys, 45))
        x = torch.randn(1, size, 3)
        expected = torch.ops.graphwright.unpack_tokens(x[:, :count], tokens, 5, 9, keys)
        assert torch.equal(packed_plan.unpack_rows(x, plan[4], 5, 9), expected)


def _close(actual, expected, dtype):
    assert actual.dtype == dtype
    assert (actual.double() - expected).abs().max() < ROUNDING[dtype] * expected.abs().max()


@needs_gpu
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("width", [24, 100, 768, 4096])
@pytest.mark.parametrize("rms", [False, True])
def test_residual_norm_on_a_gpu(dtype, width, rms):
    torch.manual_seed(0)
    x, residual = (torch.randn(3, 37, width, device="cuda", dtype=dtype) * 3 + 1 for _ in range(2))
    bias, weight, shift = (torch.randn(width, device="cuda", dtype=dtype) for _ in range(3))
    for given in (
        (residual, bias, weight, None if rms else shift),
        (None, None, weight, None),
        (residual, None, None, None),
    ):
        wide = [None if tensor is None else tensor.double() for tensor in given]
        total, expected = residual_norm.reference(x.double(), *wide, 1e-5, rms)
        _close(residual_norm.residual_norm(x, *given, 1e-5, rms, False), expected, dtype)
        kept, normed = residual_norm.residual_norm(x, *given, 1e-5, rms, True)
        _close(kept, total, dtype)
        _close(normed, expected, dtype)


@needs_gpu
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("activation", activated_linear.ACTIVATIONS)
def test_activated_linear_on_a_gpu(dtype, activation):
    torch.manual_seed(0)
    forms = ["", *activated_linear.FORMS] if torch.cuda.get_device_capability()[0] == 9 else [""]
    for rows, features_in, features_out in ((4000, 768, 3072), (300, 72, 1544), (5, 768, 96)):
        x = torch.randn(rows, features_in, device="cuda", dtype=dtype)
        weight = torch.randn(features_out, features_in, device="cuda", dtype=dtype) * 0.1
        assert activated_linear.has_kernel(x, weight) == (len(forms) > 1)
        for bias in (torch.randn(features_out, device="cuda", dtype=dtype), None):
            product = torch.nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
            expected = activated_linear.ACTIVATIONS[activation](product)
            for form in forms:
                _close(activated_linear.run(form, x, weight, bias, activation), expected, dtype)
            _close(activated_linear.activated_linear(x, weight, bias, activation), expected, dtype)


@needs_gpu
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("width", [24, 64, 160])
@pytest.mark.parametrize("kind", ["none", "float", "one head", "bool"])
@pytest.mark.parametrize("first", [False, True])
def test_packed_attention_on_a_gpu(dtype, width, kind, first):
    torch.manual_seed(0)
    for length in (9, 150):
        keep = torch.rand(5, length, device="cuda") > 0.3
        keep[2] = False
        tokens, offsets, keys, key_offsets = token_plan(keep, first=first)
        qkv = torch.randn(1, tokens.numel(), 3, 4, width, device="cuda", dtype=dtype)
        query, key, value = (qkv[:, :, i].transpose(1, 2) for i in range(3))
        bias = None
        if kind != "none":
            bias = torch.randn(1, 1 if kind == "one head" else 4, length, length, device="cuda", dtype=dtype)
            bias = (bias > -1) | torch.eye(length, device="cuda", dtype=torch.bool) if kind == "bool" else bias
        wide = bias if bias is None or kind == "bool" else bias.double()
        expected = varlen_attention(
            query.double(),
            key.double(),
            value.double(),
            tokens,
            offsets,
            keys,
            key_offsets,
            wide,
            length=length,
            scale=0.2,
        )
        actual = packed_attention(query, key, value, tokens, offsets, keys, key_offsets, bias, length, 0.2, first)
        known = ~expected.isnan()  # a token that the bias hides from every key
        _close(actual[known], expected[known], dtype)


@needs_gpu
@pytest.mark.parametrize("first", [False, True])
def test_packed_plans_on_a_gpu(first):
    for rows, length in ((1, 1), (5, 9), (64, 512), (300, 33)):
        keep = torch.rand(rows, length, device="cuda") > 0.4
        keep[rows // 2] = False
        count = int(packed_plan.chosen_tokens(keep, first).sum())
        for size in {max(count, 1), min(count + 70, keep.numel()) or 1}:
            expected = packed_plan.reference(keep, size, first)
            for want, have in zip(expected, packed_plan.packed_plan(keep, size, first), strict=True):
                assert torch.equal(want, have)
            for shape in ((1, size), (1, size, 24), (1, size, 2, 384)):
                x = torch.randn(shape, device="cuda", dtype=torch.float16)
                unpacked = packed_plan.unpack_rows(x, expected[4], rows, length)
                padded = torch.cat([x[0], x.new_zeros(1, *shape[2:])])
                assert torch.equal(unpacked, padded[expected[4]].unflatten(0, [rows, length]))
