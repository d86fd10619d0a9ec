"""Each C binding computes what its op overload does, for the arguments that programs pass."""

from __future__ import annotations

import pytest
import torch

from graphwright.lowering.eager.bindings import BINDINGS

aten = torch.ops.aten

A = torch.linspace(0.1, 2, 24).view(2, 3, 4)
B = torch.linspace(-1, 1, 24).view(2, 3, 4)
M = torch.linspace(-1, 1, 12).view(3, 4)
IDS = torch.tensor([[0, 2], [1, 1]])
FLAGS = A > 1

CALLS = {
    aten.addmm.default: ((torch.ones(3), M, M.T), {"beta": 2}),
    aten.baddbmm.default: ((torch.ones(2, 3, 3), A, B.mT), {"alpha": 0.5}),
    aten.bmm.default: ((A, B.mT), {}),
    aten.cat.default: (([A, B], -1), {}),
    aten.contiguous.default: ((A.mT,), {}),
    aten.cumsum.default: ((A, 1), {"dtype": torch.float64}),
    aten.embedding.default: ((M, IDS, 1), {}),
    aten.expand.default: ((M.unsqueeze(0), [5, -1, -1]), {}),
    aten.gelu.default: ((B,), {"approximate": "tanh"}),
    aten.index_select.default: ((A, 1, torch.tensor([2, 0])), {}),
    aten.layer_norm.default: ((A, [4], torch.ones(4), torch.ones(4), 1e-3, False), {}),
    aten.linear.default: ((A, M, torch.ones(3)), {}),
    aten.masked_fill.Scalar: ((A, FLAGS, -1.0), {}),
    aten.masked_fill.Tensor: ((A, FLAGS, torch.tensor(-1.0)), {}),
    aten.matmul.default: ((A, B.mT), {}),
    aten.mean.dim: ((A, [-1], True), {"dtype": torch.float64}),
    aten.permute.default: ((A, [2, 0, 1]), {}),
    aten.reshape.default: ((A.mT, [2, -1]), {}),
    aten.rms_norm.default: ((A, [4], torch.ones(4), 1e-3), {}),
    aten.rsub.Scalar: ((A, 2.0), {}),
    aten.scaled_dot_product_attention.default: (
        (A[None], B[None], A[None], FLAGS[None, :, :, :3]),
        {"scale": 0.3, "enable_gqa": True},
    ),
    aten.select.int: ((A, 1, -1), {}),
    aten.softmax.int: ((A, -1, torch.float64), {}),
    aten.split.Tensor: ((A, 3, 2), {}),
    aten.squeeze.dim: ((A[:1], 0), {}),
    aten.sym_size.int: ((A, 1), {}),
    aten.t.default: ((M,), {}),
    aten.transpose.int: ((A, 0, -1), {}),
    aten.unsqueeze.default: ((A, -1), {}),
    aten.view.default: ((A, [6, -1]), {}),
    aten.where.ScalarOther: ((FLAGS, A, -1.0), {}),
    aten.where.self: ((FLAGS, A, B), {}),
    aten.pow.Scalar: ((2, A), {}),
    aten.bitwise_and.Tensor: ((FLAGS, ~FLAGS), {}),
    aten.__and__.Tensor: ((FLAGS, A > 0.5), {}),
    aten.logical_and.default: ((FLAGS, A > 0.5), {}),
    aten.logical_or.default: ((FLAGS, A > 0.5), {}),
    aten.logical_not.default: ((FLAGS,), {}),
    aten.add.Tensor: ((A, B), {"alpha": 2}),
    aten.sub.Tensor: ((A, B), {"alpha": 2}),
}


def arguments(op):
    """The listed arguments, or by the op's schema one tensor, two tensors, or a tensor and a number."""
    if op in CALLS:
        return CALLS[op]
    count = sum(not argument.has_default_value() for argument in op._schema.arguments)
    other = A if op._overloadname in ("Tensor", "Tensor_Tensor") else 2.0
    return ((A,), (A, other))[count - 1], {}


@pytest.mark.parametrize("op", BINDINGS, ids=str)
def test_binding(op):
    args, kwargs = arguments(op)
    expected, actual = op(*args, **kwargs), BINDINGS[op](*args, **kwargs)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
    assert type(actual) is type(expected) or isinstance(actual, (tuple, list))
