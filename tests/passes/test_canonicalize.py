"""Every rule of canonicalization: exact, idempotent, and careful with gradients, randomness and returned copies."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphwright.ir.snapshot import fingerprint
from graphwright.ir.verify import verify
from graphwright.passes.canonicalize.pass_ import Canonicalize
from graphwright.passes.pipeline import Pipeline

aten = torch.ops.aten


def x(*shape):
    torch.manual_seed(0)
    return torch.randn(*(shape or (3, 4)), dtype=torch.float64)


def ops(program):
    """Names of the calls of a program, without overloads."""
    return [str(n.target).removeprefix("aten.").split(".")[0] for n in program.nodes if n.op == "call_function"]


def leaves(value):
    return torch.utils._pytree.tree_leaves(value)


def canonical(made, *inputs, pipeline="canonicalize"):
    """The canonical program, checked to be valid, exact and stable."""
    result = Pipeline(pipeline).run(made).program
    verify(result)
    want = made.run(*(torch.utils._pytree.tree_map(torch.clone, i) for i in inputs))
    have = result.run(*(torch.utils._pytree.tree_map(torch.clone, i) for i in inputs))
    for a, b in zip(leaves(want), leaves(have), strict=True):
        if isinstance(a, torch.Tensor):
            # einsum as a matrix product may add in another order: 1e-14 is a few last places
            assert a.dtype == b.dtype
            assert torch.equal(a, b) or ("einsum" in ops(made) and torch.allclose(a, b, rtol=0, atol=1e-14))
        else:
            assert a == b
    again = Pipeline(pipeline).run(result)
    assert not again.trace.records[0].changed, again.diff
    return result


# ---- single rules ----------------------------------------------------------------------------

F16, F32, F64 = torch.float16, torch.float32, torch.float64
RULES = {
    # casts
    "cast to the same dtype": (lambda a: a.to(F64) + a.double() + a.type_as(a), ["add", "add"]),
    "cast with options": (lambda a: a.to("cpu", F32, non_blocking=True, copy=True) + 1, ["to", "add"]),
    "cast there and back": (lambda a: a.float().double().float() + 1, ["to", "add"]),
    "lossy cast there and back": (lambda a: a.float().double() + 1, ["to", "to", "add"]),
    "integers are no floats": (lambda a: (a * 9).long().double() + 1, ["mul", "to", "to", "add"]),
    "booleans fit everywhere": (lambda a: (a > 0).long().double() + 1, ["gt", "to", "add"]),
    "wide integers do not fit": (
        lambda a: (a * 300).long().to(torch.int8).long() + 1,
        ["mul", "to", "to", "to", "add"],
    ),
    "8-bit floats": (lambda a: a.to(torch.float8_e4m3fn).to(F32) + 1, ["to", "to", "add"]),
    "half and bfloat are different": (lambda a: a.half().bfloat16().half() + 1, ["to", "to", "to", "add"]),
    # noise
    "inactive dropout": (lambda a: torch.dropout(a, 0.5, False) + torch.dropout(a, 0.0, True), ["add"]),
    "inactive alpha dropout": (lambda a: torch.alpha_dropout(a, 0.5, False) + 1, ["add"]),
    "copies": (lambda a: a.clone().contiguous() + a.t().contiguous().t(), ["add"]),
    "copies in another format": (lambda a: a[None, None].clone(memory_format=torch.channels_last) + 1, None),
    "plus nothing": (lambda a: (a + 0) * (a - 0), ["mul"]),
    "times one": (lambda a: (a * 1) / 1 + a * 1.0, ["add"]),
    "plus nothing that changes the dtype": (lambda a: (a > 0) + 0, ["gt", "add"]),
    "times one that changes the dtype": (lambda a: (a * 9).long() * 1.0, ["mul", "to", "mul"]),
    "division of integers by one": (lambda a: (a * 9).long() / 1, ["mul", "to", "div"]),
    "rounding division by one": (lambda a: torch.div(a, 1, rounding_mode="floor"), ["div"]),
    "times true": (lambda a: a * True, ["mul"]),
    "and": (lambda a: torch.logical_and(a > 0, a < 1) & (a != 3), ["gt", "lt", "bitwise_and", "ne", "bitwise_and"]),
    "or": (lambda a: torch.logical_or(a > 0, a < -1), ["gt", "lt", "bitwise_or"]),
    "and of numbers": (lambda a: torch.logical_and(a, a), ["logical_and"]),
    "not": (lambda a: torch.logical_not(a > 0), ["gt", "bitwise_not"]),
    "not of numbers": (lambda a: torch.logical_not(a.floor()), ["floor", "logical_not"]),
    "softmax": (lambda a: torch.special.softmax(a, -1), ["softmax"]),
    "detach of what needs no gradient": (lambda a: (a > 0).detach().to(F64).detach() + 1, ["gt", "to", "add"]),
    "detach of what may need one": (lambda a: a.detach() + 1, ["detach", "add"]),
    # shapes
    "view": (lambda a: a.view(12).reshape(2, 6).view(3, 4) + 1, ["add"]),
    "reshape of a copy": (lambda a: a.t().reshape(12).view(2, 6) + 1, ["transpose", "reshape", "add"]),
    "flatten and unflatten": (lambda a: a.flatten().unflatten(0, (2, -1)) + 1, ["reshape", "add"]),
    "flatten of what is flat": (lambda a: a[0].flatten().ravel() + a.view_as(a)[0], ["select", "add"]),
    "reshape to the shape of another": (lambda a: a.reshape_as(a.t()) + 1, ["reshape", "add"]),
    "reshapes with an open size": (lambda a: a.view(-1).view(2, -1).view(-1, 4) + 1, ["add"]),
    "expand": (lambda a: a.expand(3, 4) + a.expand(-1, -1), ["add"]),
    "real expand": (lambda a: a.expand(2, 3, 4) + 1, ["expand", "add"]),
    "full slices": (lambda a: a[:] + a[:, 0:4] + a[0:99], ["add", "add"]),
    "partial slices": (lambda a: a[:, :-1] + a[:, 1:] + a[::1, :3], ["slice", "slice", "add", "slice", "add"]),
    "strided slices": (lambda a: a[::2] + 1, ["slice", "add"]),
    "cat of one": (lambda a: torch.cat([a]) + 1, ["add"]),
    "cat with nothing": (lambda a: torch.cat([a.new_zeros(0), a, a[:0]]) + 1, ["add"]),
    "cat with nothing of another dtype": (lambda a: torch.cat([a.float(), a[:0]]) + 1, None),
    "cat along the last dim": (lambda a: torch.cat([a[:, :0], a, a], -1), ["cat"]),
    "transposes": (lambda a: a.t().T.mT.swapaxes(0, -1) + 1, ["add"]),
    "one transpose": (lambda a: a.transpose(-1, -2) + a.T, ["transpose", "add"]),
    "transpose of a row": (lambda a: a[0].t() + 1, ["select", "add"]),
    "permute": (lambda a: a.permute(1, 0).permute(0, 1) + 1, ["transpose", "add"]),
    "permute of three": (lambda a: a[None].permute(2, 0, 1) + 1, ["unsqueeze", "permute", "add"]),
    "negative dims": (lambda a: a.unsqueeze(-1).squeeze(-1) + a.unsqueeze(2).squeeze(2), None),
    "numbers without dims": (lambda a: a.sum().squeeze(-1).transpose(0, -1) + 1, ["sum", "add"]),
    "fills": (lambda a: torch.ones_like(a) * a.new_full((4,), 3) + torch.zeros_like(a) + a, ["add"]),
    "part just written": (lambda a: torch.select_scatter(a, a[0] * 2, 0, 1)[1] + 1, ["select", "mul", "add"]),
    "another part than was written": (lambda a: torch.select_scatter(a, a[0] * 2, 0, 1)[2] + 1, None),
    # whole graph
    "duplicates": (lambda a: (a * 2).relu() + (a * 2).relu(), ["mul", "relu", "add"]),
    "almost duplicates": (lambda a: a * 2 + a * 2.5 + a.sum(0) + a.sum(0, True), None),
    "one, one point zero and true": (lambda a: torch.full_like(a, 1, dtype=F32) + (a > 0) * 1 + (a > 0) * 1.0, None),
    "dead code": (lambda a: (a.exp().sum(), a + 1)[1], ["add"]),
    "einsum": (lambda a: torch.einsum("ij,kj->ik", a, a), ["transpose", "matmul"]),
    "einsum that broadcasts": (lambda a: torch.einsum("ij,jk->ik", a[:, :1], a.t()), None),
    "einsum of three": (lambda a: torch.einsum("ij,kj,kl->il", a, a, a), ["einsum"]),
    "einsum with a trace": (lambda a: torch.einsum("ii,ij->j", a[:, :3], a), ["slice", "einsum"]),
    "einsum with an ellipsis": (lambda a: torch.einsum("...j,kj->...k", a, a), ["einsum"]),
    "einsum that sums over one operand": (lambda a: torch.einsum("ij,k->ik", a, a[0]), ["select", "einsum"]),
}


@pytest.mark.parametrize("name", RULES)
def test_rules(trace, name):
    function, want = RULES[name]
    result = canonical(trace(function, x()), x())
    if want is not None:
        assert ops(result) == want


def test_ops_with_symbolic_sizes(trace):
    def function(a):
        b, s = a.shape[0], a.shape[1]
        return (
            a.view(b, s).reshape(b * s).view(b, s) + a.expand(b, s)[:b, :s],
            a[:, : s - 1],
            torch.zeros_like(a) + torch.ones(b, s, dtype=F64),
            a.reshape(-1),
            a.shape[1] * 1,
            torch.stack([a, a, a], 1).flatten(1) + 1,
            torch.stack([a, a, a], 1).flatten(0, 1).unflatten(0, (-1, 3)) + 1,
            a[:, :, None].expand(-1, -1, 4).flatten() + 1,
        )

    made = trace(function, x(), dynamic=(0, 1))
    result = canonical(made, x())
    for shape in ((1, 2), (5, 3)):
        for have, want in zip(leaves(result.run(x(*shape))), leaves(made.run(x(*shape))), strict=True):
            assert torch.equal(torch.as_tensor(have), torch.as_tensor(want))
    assert ops(result).count("expand") == 1


def test_asserts_go(trace):
    made = trace(lambda a: a.to(F32).to(F64), x())
    assert "_assert_tensor_metadata" in ops(made)
    assert ops(canonical(made, x())) == ["to", "to"]


# ---- constants -------------------------------------------------------------------------------


def test_constants_are_folded_once_and_last(trace):
    made = trace(lambda a: a + (torch.arange(4) * 2 + 1).double().sqrt(), x())
    result = canonical(made, x())
    assert ops(result) == ["add"]
    (constant,) = (node for node in result.nodes if node.op == "get_attr")
    assert result.state[constant.target].shape == (4,)


def test_buffers_are_constants_and_parameters_are_not(trace):
    state = {"buffer": x(4), "weight": nn.Parameter(x(4))}
    made = trace(lambda m, a: a * (m.buffer * 2) + m.weight * 2, x(), **state)
    assert ops(canonical(made, x())) == ["mul", "mul", "add"]


def test_a_parameter_trained_after_canonicalization_counts(trace):
    weight = nn.Parameter(x(4))
    result = canonical(trace(lambda m, a: a + (m.weight * 2).exp(), x(), weight=weight), x())
    with torch.no_grad():
        weight.add_(1)
    assert torch.equal(result.run(x()), x() + (weight * 2).exp())


def test_frozen_parameters_stay_parameters(trace):
    weight = nn.Parameter(x(4), requires_grad=False)
    result = canonical(trace(lambda m, a: a + m.weight * 2, x(), weight=weight), x())
    assert ops(result) == ["mul", "add"]


def test_buffers_of_a_program_in_training_are_not_folded(trace):
    made = trace(lambda m, a: a * (m.buffer * 2), x(), buffer=x(4))
    made.training = True
    assert ops(canonical(made, x())) == ["mul", "mul"]


@pytest.mark.parametrize(("limit", "want"), [(31, ["arange", "mul"]), (32, ["mul"]), (0, ["arange", "mul"])])
def test_the_fold_limit_is_in_bytes(trace, limit, want):
    made = trace(lambda a: a * torch.arange(4), x())
    assert ops(canonical(made, x(), pipeline=f"canonicalize{{fold_limit={limit}}}")) == want


def test_folding_keeps_the_models_buffers(trace):
    buffer = x(4)
    made = trace(lambda m, a: a * (m.buffer * 2), x(), buffer=buffer)
    result = canonical(made, x())
    assert result.state["buffer"] is buffer
    assert torch.equal(buffer, x(4))
    assert set(made.state) == {"buffer"}


def test_a_large_constant_behind_a_small_one_is_not_kept(trace):
    made = trace(lambda a: a + torch.ones(1000, 4, dtype=F64).sum(0), x())
    result = canonical(made, x(), pipeline="canonicalize{fold_limit=64}")
    assert result.state_bytes() <= 64


# ---- randomness ------------------------------------------------------------------------------


def test_random_ops_are_neither_merged_nor_folded(trace):
    def function(a):
        noise = torch.rand(3, 4) - torch.rand(3, 4)
        return noise, torch.dropout(a, 0.5, True) - torch.dropout(a, 0.5, True), torch.rand_like(a), torch.rand_like(a)

    result = Pipeline("canonicalize").run(trace(function, x())).program
    assert ops(result).count("rand") == 2
    assert ops(result).count("dropout") == 2
    a = x()
    first, second = result.run(a), result.run(a)
    assert first[0].abs().sum() > 0
    assert first[1].abs().sum() > 0
    assert not torch.equal(first[2], first[3])
    assert not torch.equal(first[0], second[0])


def test_seeded_results_stay_what_they_were(trace):
    def function(a):
        return torch.dropout(a, 0.5, True) + torch.dropout(torch.dropout(a, 0.3, False), 0.2, True) + torch.rand_like(a)

    made = trace(function, x())
    result = Pipeline("canonicalize").run(made).program
    torch.manual_seed(1)
    want = made.run(x())
    torch.manual_seed(1)
    assert torch.equal(result.run(x()), want)


def test_attention_with_dropout_is_not_merged(trace):
    attend = nn.functional.scaled_dot_product_attention
    made = trace(lambda a: attend(a, a, a, dropout_p=0.5) - attend(a, a, a, dropout_p=0.5), x(1, 2, 3, 4))
    result = Pipeline("canonicalize").run(made).program
    assert result.run(x(1, 2, 3, 4)).abs().sum() > 0


# ---- what the caller gets --------------------------------------------------------------------

COPIES = {
    "clone": lambda a: a.clone(),
    "clone of a view": lambda a: a.t().clone(),
    "view of a clone": lambda a: a.clone().t(),
    "contiguous transpose": lambda a: a.t().contiguous(),
    "times one": lambda a: a * 1,
    "plus zero": lambda a: a + 0,
    "cat of one": lambda a: torch.cat([a]),
    "cast with copy": lambda a: a.to(F64, copy=True),
    "two copies": lambda a: a.clone().clone(),
    "reshape of a copy": lambda a: a.t().reshape(12).view(4, 3),
    "cast and back": lambda a: (a > 0).double().to(F32).double(),
}


@pytest.mark.parametrize("name", COPIES)
def test_a_returned_copy_of_an_input_stays_a_copy(trace, name):
    result = Pipeline("canonicalize").run(trace(COPIES[name], x())).program
    a = x()
    result.run(a).add_(100)
    assert torch.equal(a, x())


@pytest.mark.parametrize("name", COPIES)
def test_a_returned_copy_of_a_weight_stays_a_copy(trace, name):
    made = trace(lambda m, a: (COPIES[name](m.buffer), a + 1), x(), buffer=x())
    result = Pipeline("canonicalize").run(made).program
    result.run(x())[0].add_(100)
    assert torch.equal(result.run(x())[0], made.run(x())[0])
    assert torch.equal(made.state["buffer"], x())


def test_a_returned_literal_is_a_fresh_tensor(trace):
    result = Pipeline("canonicalize").run(trace(lambda a: (torch.tensor([1.0, 2.0]), a), x())).program
    result.run(x())[0].add_(100)
    assert torch.equal(result.run(x())[0], torch.tensor([1.0, 2.0]))


def test_inputs_and_weights_that_are_returned_as_they_are_stay_so(trace):
    made = trace(lambda m, a: (a, m.buffer, a.view(12), a.to(F64)), x(), buffer=x(4))
    result = Pipeline("canonicalize").run(made).program
    a = x()
    first, second, third, fourth = result.run(a)
    assert first is a
    assert second.data_ptr() == made.state["buffer"].data_ptr()
    assert third.data_ptr() == fourth.data_ptr() == a.data_ptr()


# ---- gradients -------------------------------------------------------------------------------


def gradients(call, *inputs):
    inputs = [i.clone().requires_grad_() for i in inputs]
    out = sum((leaf * leaf).sum() for leaf in leaves(call(*inputs)) if leaf.requires_grad)
    return torch.autograd.grad(out, inputs, allow_unused=True)


def no_grad_part(a):
    with torch.no_grad():
        scale = a.abs().sum(-1, keepdim=True) * 2
    return a / scale


def no_grad_twice(a):
    with torch.no_grad():
        low, high = a * 2, (a > 0).double()
    return a * low + high * a, low * a


def enable_grad_within_no_grad(a):
    with torch.no_grad():
        b = a * 2
        with torch.enable_grad():
            c = a * 3
        d = b + c
    return a * b + c + d * a


def no_grad_within_no_grad(a):
    with torch.no_grad():
        b = a * 2
        with torch.no_grad():
            c = b * 3
    return a * c


def detached(a):
    return a * a.detach() + (a * 2).detach().clone() * a


REGIONS = [no_grad_part, no_grad_twice, enable_grad_within_no_grad, no_grad_within_no_grad, detached]


@pytest.mark.parametrize("function", REGIONS)
def test_gradients_stay_those_of_eager_pytorch(trace, function):
    result = canonical(trace(function, x()), x())
    assert not any("wrap_with" in name for name in ops(result))
    for have, want in zip(gradients(result.run, x()), gradients(function, x()), strict=True):
        assert torch.allclose(have, want, rtol=1e-12)


def test_gradients_of_weights_used_under_no_grad(trace):
    weight = nn.Parameter(x(4))

    def function(m, a):
        with torch.no_grad():
            frozen = m.weight * 2 + torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=F64)
        return a * frozen + m.weight

    result = canonical(trace(function, x(), weight=weight), x())
    (have,) = torch.autograd.grad(result.run(x()).sum(), [weight])
    assert torch.equal(have, torch.full((4,), 3.0, dtype=F64))


def test_autocast_off_is_inlined_and_autocast_on_is_kept(trace):
    def off(a):
        with torch.autocast("cpu", enabled=False):
            return a.float() @ a.float().t()

    def on(a):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return a.float() @ a.float().t()

    assert "matmul" in ops(canonical(trace(off, x()), x()))
    result = canonical(trace(on, x()), x())
    assert result.run(x()).dtype == torch.bfloat16


# ---- a whole model ---------------------------------------------------------------------------


def test_training_mode_keeps_dropout_and_batch_statistics(trace_module):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4)).double().train()
    result = Pipeline("canonicalize").run(trace_module(net, x())).program
    assert {"dropout", "batch_norm"} <= set(ops(result))


def test_a_layer_keeps_its_results_exactly(trace_module):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).double().eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        made = trace_module(layer, x(2, 5, 8), dynamic=(0, 1))
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    result = canonical(made, x(2, 5, 8))
    for shape in ((1, 2, 8), (3, 7, 8)):
        assert torch.equal(result.run(x(*shape)), made.run(x(*shape)))
    assert len(result.nodes) < len(made.nodes)


def test_the_pass_says_what_it_establishes(trace):
    made = trace(lambda a: a.clone(), x())
    assert Canonicalize.establishes == {"canonical", "functional"}
    result = Pipeline("canonicalize").run(made).program
    assert result.invariants == {"canonical", "functional"}
    assert fingerprint(Pipeline("canonicalize").run(result).program) == fingerprint(result)
