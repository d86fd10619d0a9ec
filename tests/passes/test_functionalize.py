"""In-place ops made functional give what eager PyTorch gives, aliasing included."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import graphwright as gw
from graphwright.ir.errors import PassError
from graphwright.ir.invariants import is_mutating
from graphwright.ir.verify import verify
from graphwright.passes.pipeline import Pipeline

aten = torch.ops.aten


def x():
    return torch.arange(12.0, dtype=torch.float64).reshape(3, 4) / 7 - 0.5


def chained(a):
    y = a * 1
    y.add_(1).mul_(2).sub_(a)
    return y


def through_a_slice(a):
    y = a * 1
    y[1:, :2] += 3
    return y


def through_a_select_of_a_transpose(a):
    y = a * 1
    y.t()[1].mul_(5)
    return y


def chained_on_a_view(a):
    y = a * 1
    y[0].add_(1).mul_(2)
    return y


def read_before_and_after(a):
    y = a * 1
    before = y + 0.5
    y.add_(1)
    after = y + 0.5
    return before, after, y


def view_made_before_and_read_after(a):
    y = a * 1
    v, w = y[0], y.t()
    y.mul_(3)
    return v, w, y


def view_made_after(a):
    y = a * 1
    y.mul_(3)
    v = y[1]
    v.add_(1)
    return y, v


def write_to_a_view_then_to_the_whole_then_read_the_view(a):
    y = a * 1
    v = y[0]
    v.add_(1)
    y.mul_(2)
    return v + 1, y


def write_to_the_result_of_a_write(a):
    y = a * 1
    z = y[0].add_(1)
    z.mul_(3)
    return y, z


def two_views_of_one_tensor(a):
    y = a * 1
    rows, columns = y[1], y[:, 1]
    rows.add_(1)
    columns.mul_(10)
    rows.sub_(2)
    return y, rows, columns


def copy_through_a_slice(a):
    y = torch.zeros_like(a)
    y[:, 1:3] = a[:, :2]
    y[0] = 7
    return y


def copy_and_write_to_the_source(a):
    y, z = torch.zeros_like(a), a * 2
    y.copy_(z)
    z.add_(100)
    y.mul_(3)
    return y, z


def copy_of_another_dtype_and_shape(a):
    y = torch.zeros_like(a)
    y.copy_(a[0].float())
    return y


def masked_fill(a):
    y = a * 1
    y.masked_fill_(a > 0, -1.0)
    return y


def index_put(a):
    y = a * 1
    y[torch.tensor([0, 2]), torch.tensor([1, 3])] = a[0, :2]
    y[a > 0.5] = 0
    return y


def fill_and_zero(a):
    y = a * 1
    y[0].zero_()
    y[1].fill_(4)
    y[:, 3].fill_(a[0, 0])
    return y


def unary(a):
    y = a * 1
    y.relu_().sigmoid_().clamp_(0.1, 0.6)
    return y


def comparison(a):
    y = a * 1
    y.gt_(0.2)
    return y


def reshaped_view(a):
    y = a * 1
    y.view(-1)[3:5].add_(10)
    y.reshape(2, 6)[1].mul_(2)
    return y


def reshape_that_copies(a):
    y = (a * 1).t()
    flat = y.reshape(-1)
    flat.add_(100)
    return y, flat


def reshape_of_a_transpose_that_is_still_a_view(a):
    y = (a * 1).t()
    z = y.reshape(2, 2, 3)
    z.add_(100)
    return y, z


def view_of_what_was_written_through_a_transpose(a):
    """The functional result of the first write has another memory layout, but `flat` is a view all the same."""
    y = a * 1
    t, flat = y.t(), y.reshape(-1)
    t.masked_fill_(t > 0, -1.0)
    y.add_(1)
    return y, t, flat


def contiguous_of_contiguous(a):
    y = a * 1
    z = y.contiguous()
    z.add_(1)
    w = y.t().contiguous()
    w.add_(10)
    return y, z, w


def cast_to_the_same_type(a):
    y = a * 1
    y.to(torch.float64).add_(1)
    y.to(torch.float32).add_(10)
    y.type_as(a).add_(100)
    y.to(torch.float64, copy=True).add_(1000)
    return y


def inactive_dropout(a):
    y = a * 1
    z = torch.dropout(y, 0.5, False)
    z += 1
    return y, z


def chunks(a):
    y = a * 1
    left, right = y.chunk(2, 1)
    right.add_(left)
    left.mul_(3)
    return y, left, right


def splits(a):
    y = a * 1
    parts = y.split([1, 3], -1)
    parts[1].add_(1)
    top, bottom = torch.tensor_split(y, 2)
    bottom.mul_(2)
    y.add_(1)
    return y, parts[0], parts[1], top, bottom


def unbind(a):
    y = a * 1
    first, second, third = y.unbind()
    second.add_(first)
    third.copy_(second)
    return y, second, third


def other_views(a):
    y = a * 1
    y.narrow(1, 1, 2).add_(1)
    y.flatten().mul_(2)
    y.movedim(0, 1)[0].add_(3)
    y.T[2].add_(4)
    y.unflatten(1, (2, 2))[:, 0].add_(5)
    y.view_as(a).mul_(1.5)
    y.swapaxes(0, 1)[1].mul_(7)
    y.diagonal().add_(9)
    y.unsqueeze(1).squeeze().add_(11)
    y.ravel()[::3].add_(13)
    y.permute(1, 0)[0].add_(15)
    y.expand_as(a).add_(1)
    return y


def detached(a):
    y = a * 1
    y.detach().add_(1)
    return y


def a_view_of_a_view_of_a_view(a):
    y = a * 1
    y.t()[1:3].t()[0].unsqueeze(0).add_(2)
    return y


def nested_no_grad(a):
    y = a * 1
    with torch.no_grad():
        z = a.detach() * 2
        z.add_(1)
    y.add_(z)
    return y


CASES = [
    chained, through_a_slice, through_a_select_of_a_transpose, chained_on_a_view, read_before_and_after,
    view_made_before_and_read_after, view_made_after, write_to_a_view_then_to_the_whole_then_read_the_view,
    write_to_the_result_of_a_write, two_views_of_one_tensor, copy_through_a_slice, copy_and_write_to_the_source,
    copy_of_another_dtype_and_shape, masked_fill, index_put, fill_and_zero, unary, comparison, reshaped_view,
    view_of_what_was_written_through_a_transpose, reshape_that_copies,
    reshape_of_a_transpose_that_is_still_a_view, contiguous_of_contiguous,
    cast_to_the_same_type, inactive_dropout, chunks, splits, unbind, other_views, detached,
    a_view_of_a_view_of_a_view, nested_no_grad,
]  # fmt: skip


def leaves(value):
    return torch.utils._pytree.tree_leaves(value)


def assert_equal(made, function, *arguments):
    want, have = leaves(function(*arguments)), leaves(made.run(*arguments))
    for a, b in zip(want, have, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("function", CASES)
def test_the_result_is_that_of_eager_pytorch(trace, function):
    made = trace(function, x())
    for pipeline in ("functionalize", "canonicalize"):
        if pipeline == "functionalize" and function is nested_no_grad:
            continue
        result = Pipeline(pipeline).run(made).program
        assert not [node for node in result.nodes if node.op == "call_function" and is_mutating(node)]
        assert_equal(result, function, x())
        assert_equal(result, function, -2 * x())


@pytest.mark.parametrize(
    "function", [through_a_slice, two_views_of_one_tensor, chunks, fill_and_zero, copy_through_a_slice]
)
def test_with_dynamic_sizes(trace, function):
    def of_any_size(a):
        return function(a[:, :4])

    made = Pipeline("canonicalize").run(trace(of_any_size, torch.cat([x(), x()]), dynamic=(0,))).program
    for rows in (4, 6, 10):
        assert_equal(made, of_any_size, torch.rand(rows, 4, dtype=torch.float64))


def split_of_dynamic_parts(a):
    y = a * 1
    left, right = y.split([a.shape[1] - 1, 1], 1)
    right.add_(1)
    left.mul_(2)
    return y


def test_parts_of_dynamic_size(trace):
    made = Pipeline("canonicalize").run(trace(split_of_dynamic_parts, torch.rand(3, 5), dynamic=(0, 1))).program
    for shape in ((2, 4), (3, 9)):
        assert_equal(made, split_of_dynamic_parts, torch.rand(*shape))


def test_nothing_is_left_of_a_plain_chain(trace):
    """No scatters, copies or views where a whole tensor is written."""
    made = Pipeline("canonicalize").run(trace(chained, x())).program
    assert [str(node.target) for node in made.nodes if node.op == "call_function"] == [
        "aten.add.Tensor",
        "aten.mul.Tensor",
        "aten.sub.Tensor",
    ]


# ---- writes that the caller sees -------------------------------------------------------------


def test_writes_to_inputs_stay_and_later_reads_see_them(trace):
    def write(a):
        before = a * 2
        view = a[0]
        a.add_(1)
        view.mul_(3)
        return before, a * 2, view + 0, a.t().contiguous()

    made = trace(write, x())
    result = Pipeline("canonicalize").run(made).program
    verify(result)
    mine, theirs = x(), x()
    have, want = result.run(mine), write(theirs)
    assert all(torch.equal(a, b) for a, b in zip(have, want, strict=True))
    assert torch.equal(mine, theirs)


def test_a_write_to_the_result_of_a_write_to_an_input_reaches_the_input(trace):
    def write(a):
        b = a.add_(1)
        b.mul_(2)
        return b[0].sub_(1) + 0

    result = Pipeline("canonicalize").run(trace(write, x())).program
    mine, theirs = x(), x()
    assert torch.equal(result.run(mine), write(theirs))
    assert torch.equal(mine, theirs)


def test_reads_of_a_written_input_are_not_moved_behind_the_write(trace):
    def write(a):
        wide, flat = a.to(torch.float32), a.t().reshape(-1)
        a.add_(100)
        return wide.to(torch.float64), flat.reshape(2, 6), a.clone(), a.to(torch.float32)

    result = Pipeline("canonicalize").run(trace(write, x())).program
    mine, theirs = x(), x()
    have, want = result.run(mine), write(theirs)
    assert all(torch.equal(a, b) for a, b in zip(have, want, strict=True))


def test_a_buffer_that_counts_is_neither_folded_nor_merged(trace):
    def count(m, a):
        before = m.steps * 2
        m.steps.add_(1)
        return a + before, m.steps * 2, m.steps.clone()

    steps = torch.zeros(4, dtype=torch.float64)
    made = trace(count, x(), steps=steps)
    result = Pipeline("canonicalize").run(made).program
    steps.zero_()
    for i in range(3):
        before, after, copy = result.run(x())
        assert torch.equal(before, x() + 2 * i)
        assert torch.equal(after, torch.full((4,), 2.0 * (i + 1), dtype=torch.float64))
        assert torch.equal(copy, torch.full((4,), i + 1.0, dtype=torch.float64))


def test_a_cache_buffer_is_written_through_views(trace):
    def update(m, a):
        m.cache[:, 1:3].copy_(a[:, :2])
        m.cache.index_copy_(1, torch.tensor([0]), a[:, 3:])
        return m.cache * 1

    cache = torch.zeros(3, 4, dtype=torch.float64)
    result = Pipeline("canonicalize").run(trace(update, x(), cache=cache)).program
    cache.zero_()
    have = result.run(x())
    want = torch.stack([x()[:, 3], x()[:, 0], x()[:, 1], torch.zeros(3, dtype=torch.float64)], 1)
    assert torch.equal(have, want)
    assert torch.equal(cache, want)


# ---- what cannot be done ---------------------------------------------------------------------


def overlapping(a):
    y = a * 1
    y.unfold(0, 2, 1)[0].add_(1)
    return y


def as_bits(a):
    y = a * 1
    y.view(torch.int64).add_(1)
    return y


def changed_shape(a):
    y = a * 1
    y.unsqueeze_(0)
    return y + 1


@pytest.mark.parametrize("function", [overlapping, as_bits, changed_shape])
@pytest.mark.parametrize("pipeline", ["functionalize", "canonicalize"])
def test_what_has_no_functional_form_is_an_error_that_says_where(trace_module, function, pipeline):
    class Net(torch.nn.Module):
        def forward(self, a):
            return function(a)

    with pytest.raises(PassError) as caught:
        Pipeline(pipeline).run(trace_module(Net(), x()))
    assert "cannot be made functional" in str(caught.value)
    assert "test_functionalize.py" in str(caught.value)


# ---- gradients -------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [chained, through_a_slice, masked_fill, reshaped_view, two_views_of_one_tensor])
def test_gradients_are_those_of_eager_pytorch(trace, function):
    result = Pipeline("canonicalize").run(trace(function, x())).program
    grads = []
    for call in (function, result.run):
        a = x().requires_grad_()
        sum((out * out).sum() for out in leaves(call(a))).backward()
        grads.append(a.grad)
    assert torch.allclose(*grads, rtol=1e-12)


# ---- random programs -------------------------------------------------------------------------

SIZE = (3, 4)
VIEWS = {
    "select": lambda t, n: t[n % t.shape[0]] if t.dim() > 1 else t,
    "slice": lambda t, n: t[n % 2 :],
    "last": lambda t, n: t[..., : 1 + n % max(t.shape[-1], 1)],
    "transpose": lambda t, n: t.transpose(0, -1),
    "flatten": lambda t, n: t.reshape(-1),
    "unsqueeze": lambda t, n: t.unsqueeze(n % (t.dim() + 1)),
    "chunk": lambda t, n: t.chunk(2, n % t.dim())[0],
    "unbind": lambda t, n: t.unbind(0)[-1] if t.dim() > 1 else t,
    "contiguous": lambda t, n: t.contiguous(),
    "clone": lambda t, n: t.clone(),
}
WRITES = {
    "add_": lambda t, n, other: t.add_(n + 1),
    "mul_": lambda t, n, other: t.mul_(0.5),
    "fill_": lambda t, n, other: t.fill_(n),
    "mask": lambda t, n, other: t.masked_fill_(t > n / 4, -1.0),
    "copy_": lambda t, n, other: t.copy_(other.sum()),
    "relu_": lambda t, n, other: t.relu_(),
    "sub_": lambda t, n, other: t.sub_(t * 0.25),
}
step = st.tuples(st.sampled_from([*VIEWS, *WRITES, *WRITES, "read"]), st.integers(0, 7), st.integers(0, 7))


def interpreter(steps):
    """A function that runs random steps: each takes an earlier value and views, writes or reads it."""

    def run(a):
        values, reads = [a * 1], []
        for name, which, n in steps:
            value = values[which % len(values)]
            if name in VIEWS:
                values.append(VIEWS[name](value, n))
            elif name in WRITES:
                values.append(WRITES[name](value, n, values[n % len(values)]))
            else:
                reads.append(value * 2)
        return [*reads, *(value + 0.5 for value in values)]

    return run


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(step, min_size=2, max_size=10))
def test_random_programs_of_views_and_writes(trace, steps):
    function = interpreter(steps)
    made = Pipeline("canonicalize").run(trace(function, x())).program
    assert_equal(made, function, x())
    assert_equal(made, function, 3 * x() - 1)


@pytest.mark.skipif(torch.__version__ < "2.12", reason="torch 2.11 captures such a size as a number, and says so")
def test_views_of_sizes_that_depend_on_data():
    """DeBERTa divides in place what it cut out at a place that is computed: its size is no input's."""
    from transformers import DebertaConfig, DebertaModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    config = DebertaConfig(
        **sizes, vocab_size=50, relative_attention=True, pos_att_type=["c2p", "p2c"], max_position_embeddings=64
    )
    model = DebertaModel(config).eval().double()
    program = gw.Pipeline("canonicalize").run(gw.capture(model)).program
    assert gw.compare(model, program).largest_difference < 1e-12
