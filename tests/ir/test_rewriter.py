"""The Rewriter: what it refuses, what it restores, what it records."""

import operator

import pytest
import torch
from torch import nn

from graphwright.ir.errors import PassError, PatternError
from graphwright.ir.rewriter import Rewriter
from graphwright.ir.snapshot import Snapshot, fingerprint
from graphwright.ir.verify import verify

aten = torch.ops.aten


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return torch.relu(self.linear(x))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = Inner(), Inner()

    def forward(self, x):
        return self.left(x) + self.right(x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.block = Block()

    def forward(self, x):
        y = self.block(x)
        return torch.sigmoid(y) * 2, y.shape[0] + 1


@pytest.fixture(scope="module")
def original(trace_module):
    return trace_module(Net(), torch.randn(3, 4), dynamic=(0,))


@pytest.fixture
def net(original):
    return original.clone()


@pytest.fixture
def records():
    return []


@pytest.fixture
def rewriter(net, records):
    return Rewriter(net, records.append, "test")


def find(program, name):
    return next(node for node in program.nodes if node.name == name)


def state_of(program):
    return {name: id(value) for name, value in program.state.items()}


def sides(program, x):
    """What the two linears compute, from the program's state."""
    return [
        nn.functional.linear(x, *(program.state[f"block.{side}.linear.{name}"] for name in ("weight", "bias")))
        for side in ("left", "right")
    ]


def same(program, other):
    """Equal down to names, order, arguments, and the identity of the state."""
    a, b = Snapshot.of(program), Snapshot.of(other)
    return a.nodes == b.nodes and fingerprint(program) == fingerprint(other) and state_of(program) == state_of(other)


# ---- creating and replacing ------------------------------------------------------------------


def test_a_new_node_has_a_type_and_a_home_at_once(net, rewriter):
    relu = find(net, "relu")
    with rewriter.site("Rule", [relu]) as edit:
        new = edit.aten.gelu(relu.args[0])
        assert new.meta["val"].shape == relu.meta["val"].shape
        assert new.meta["nn_module_stack"] == relu.meta["nn_module_stack"]
        assert new.meta["stack_trace"] == relu.meta["stack_trace"]
        assert new.meta["from_node"][-1].name == "relu"
        edit.replace(relu, new)
    verify(net)
    assert "relu" not in [node.name for node in net.nodes]
    x = torch.randn(2, 4)
    left, right = sides(net, x)
    assert torch.allclose(net.run(x)[0], torch.sigmoid(torch.nn.functional.gelu(left) + torch.relu(right)) * 2)


def test_a_symbolic_size_may_become_a_number_only_if_it_is_one(net, rewriter):
    size = next(node for node in net.nodes if node.target is aten.sym_size.int)
    with pytest.raises(PassError, match=r"size 3 instead of s\d+"), rewriter.site("Rule", [size]) as edit:
        edit.replace(size, 3)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda edit, x: edit.call(aten.to.dtype, x, torch.float64), "dtype torch.float64 instead of torch.float32"),
        (lambda edit, x: edit.aten.transpose.int(x, 0, 1), "shape"),
        (lambda edit, x: edit.aten.unsqueeze(x, 0), "shape"),
        (lambda edit, x: edit.aten.split.Tensor(x, 2, 1), "instead of"),
        (lambda edit, x: 1.0, "instead of"),
        (lambda edit, x: edit.aten.sym_size.int(x, 0), "instead of"),
        (lambda edit, x: edit.aten.expand(edit.aten.sum.dim_IntList(x, [0], True), [3, 4]), "shape [3, 4] instead of"),
    ],
)
def test_a_value_of_another_type_is_refused(net, original, rewriter, records, make, reason):
    relu = find(net, "relu")
    with pytest.raises(PassError) as caught, rewriter.site("Rule", [relu]) as edit:
        edit.replace(relu, make(edit, relu.args[0]))
    assert "would change the type of a value" in str(caught.value)
    assert reason in str(caught.value)
    assert "%relu" in str(caught.value)
    assert same(net, original)
    assert not records


def test_retype_is_allowed_on_demand(net, rewriter):
    relu = find(net, "relu")
    with rewriter.site("Rule", [relu]) as edit:
        narrow = edit.call(aten.to.dtype, relu.args[0], torch.float16)
        edit.replace(relu, narrow, retype=True)
    assert find(net, "add").args[0] is narrow


def test_wrong_arguments_are_refused_with_the_ops_own_reason(net, original, rewriter):
    relu = find(net, "relu")
    with (
        pytest.raises(PassError, match="does not accept these arguments") as caught,
        rewriter.site("R", [relu]) as edit,
    ):
        edit.aten.matmul(relu, relu)
    assert "%relu (block.left, test_rewriter.py:" in str(caught.value)
    assert same(net, original)


def test_a_misspelt_op_names_the_nearest(net, original, rewriter):
    with pytest.raises(PatternError, match="did you mean softmax"), rewriter.site("R", [find(net, "relu")]) as edit:
        edit.aten.sofmax(find(net, "relu"), -1)
    with pytest.raises(PatternError, match="has no overload"), rewriter.site("R", [find(net, "relu")]) as edit:
        edit.aten.mul.Banana(find(net, "relu"), 1)
    assert same(net, original)


@pytest.mark.parametrize(
    ("make", "overload"),
    [
        (lambda aten_, x: aten_.mul(x, x), aten.mul.Tensor),
        (lambda aten_, x: aten_.add(x, x, alpha=2), aten.add.Tensor),
        (lambda aten_, x: aten_.softmax(x, -1), aten.softmax.int),
        (lambda aten_, x: aten_.sum(x, [0], True), aten.sum.dim_IntList),
        (lambda aten_, x: aten_.clamp(x, min=0), aten.clamp.default),
    ],
)
def test_the_overload_is_chosen_from_the_arguments(net, rewriter, make, overload):
    with rewriter.site("R", [find(net, "relu")]) as edit:
        assert make(edit.aten, find(net, "relu").args[0]).target is overload
        edit.roll_back()


@pytest.mark.parametrize("number", [2, 2.5, True, 0])
def test_a_number_multiplies_a_tensor(net, rewriter, number):
    relu = find(net, "relu")
    with rewriter.site("R", [relu]) as edit:
        edit.replace(relu, edit.aten.mul(relu.args[0], number))
    verify(net)
    assert net.run(torch.ones(2, 4))[0].shape == (2, 4)


# ---- rolling back ----------------------------------------------------------------------------


def test_an_exception_restores_everything(net, original, rewriter, records):
    relu, add = find(net, "relu"), find(net, "add")
    revision = net.revision
    with pytest.raises(PassError) as caught, rewriter.site("Breaks", [relu, add]) as edit:
        constant = edit.get_state("fresh", torch.ones(4))
        new = edit.aten.mul(relu.args[0], constant)
        edit.replace(relu, new)
        edit.set_arguments(add, (new, new))
        edit.replace(new, edit.aten.neg(new))
        edit.erase(relu)
        raise ValueError("on purpose")
    assert same(net, original)
    assert net.revision == revision
    assert not records
    assert "rule Breaks of pass 'test' failed: ValueError: on purpose" in str(caught.value)
    assert "%add (block, test_rewriter.py:" in str(caught.value)
    assert isinstance(caught.value.__cause__, ValueError)
    x = torch.randn(2, 4)
    assert torch.equal(net.run(x)[0], original.run(x)[0])


def test_users_are_restored_too(net, original, rewriter):
    users = {node.name: [user.name for user in node.users] for node in original.nodes}
    relu = find(net, "relu")
    with pytest.raises(PassError), rewriter.site("Breaks", [relu]) as edit:
        edit.replace(relu, edit.aten.gelu(relu.args[0]))
        raise RuntimeError
    assert {node.name: sorted(user.name for user in node.users) for node in net.nodes} == {
        name: sorted(names) for name, names in users.items()
    }


def test_the_rewriter_is_usable_after_a_failure(net, rewriter, records):
    relu = find(net, "relu")
    with pytest.raises(PassError), rewriter.site("Breaks", [relu]) as edit:
        edit.replace(relu, edit.aten.gelu(relu.args[0]))
        raise RuntimeError
    with rewriter.site("Works", [relu]) as edit:
        edit.replace(relu, edit.aten.gelu(relu.args[0]))
    verify(net)
    assert [record.rule for record in records] == ["Works"]


def test_a_site_without_edits_is_no_rewrite(net, original, rewriter, records):
    with rewriter.site("Nothing", [find(net, "relu")]):
        pass
    assert same(net, original)
    assert net.revision == original.revision
    assert not records


def test_new_nodes_that_nobody_uses_leave_no_trace(net, original, rewriter, records):
    with rewriter.site("Idle", [find(net, "relu")]) as edit:
        edit.aten.neg(find(net, "relu"))
    assert same(net, original)
    assert net.revision == original.revision
    assert not records


# ---- refusing to commit ----------------------------------------------------------------------


def test_erasing_a_value_in_use_is_refused(net, original, rewriter):
    relu = find(net, "relu")
    message = "erases a value that is still used"
    with pytest.raises(PassError, match=message) as caught, rewriter.site("R", [relu]) as edit:
        edit.erase(relu)
    assert "used by %add" in str(caught.value)
    assert same(net, original)


def test_a_value_made_after_its_user_is_refused(net, original, rewriter):
    relu, mul = find(net, "relu"), find(net, "mul")
    with pytest.raises(PassError, match="after its user") as caught, rewriter.site("R", [relu, mul]) as edit:
        edit.replace(relu, edit.aten.gelu(relu.args[0]))
    assert "insert_before" in str(caught.value)
    assert same(net, original)


def test_insert_before_puts_it_right(net, rewriter):
    relu, mul = find(net, "relu"), find(net, "mul")
    with rewriter.site("R", [relu, mul]) as edit:
        edit.insert_before(relu)
        edit.replace(relu, edit.aten.gelu(relu.args[0]))
    verify(net)
    names = [node.name for node in net.nodes]
    assert names.index("gelu") < names.index("add") < names.index("mul")


def test_an_old_value_redirected_to_a_later_one_is_refused(net, original, rewriter):
    """The new value is not created by the site, but it, too, comes after its user."""
    relu, relu_1 = find(net, "relu"), find(net, "relu_1")
    add = find(net, "add")
    with pytest.raises(PassError), rewriter.site("R", [relu]) as edit:
        edit.replace(relu.args[0], add)
    assert same(net, original)
    assert relu_1.users


def test_the_output_and_inputs_cannot_be_erased(net, original, rewriter):
    with pytest.raises(PassError), rewriter.site("R", [find(net, "relu")]) as edit:
        edit.erase(net.output_node)
    assert same(net, original)
    with pytest.raises(PassError), rewriter.site("R", [find(net, "relu")]) as edit:
        for user in list(find(net, "x").users):
            edit.set_arguments(user, (find(net, "relu").args[0], *user.args[1:]))
        edit.erase(find(net, "x"))
    assert same(net, original)


# ---- records ---------------------------------------------------------------------------------


def test_a_replacement_is_recorded(net, rewriter, records):
    relu = find(net, "relu")
    with rewriter.site("Gelu", [relu]) as edit:
        edit.replace(relu, edit.aten.gelu(relu.args[0]))
    (record,) = records
    assert (record.pass_name, record.rule, record.site) == ("test", "Gelu", "block.left")
    assert record.source.startswith("test_rewriter.py:")
    assert [r.name for r in record.removed] == ["relu"]
    assert [(r.name, r.type) for r in record.added] == [("gelu", record.removed[0].type)]
    assert record.replaced == (("relu", "gelu"),)
    assert net.revision == 1


def test_edited_nodes_are_in_both_lists(net, rewriter, records):
    mul = find(net, "mul")
    with rewriter.site("Triple", [mul]) as edit:
        edit.set_arguments(mul, (mul.args[0], 3))
    (record,) = records
    assert [r.name for r in record.removed] == [r.name for r in record.added] == ["mul"]
    assert record.removed[0].args != record.added[0].args


def test_a_fusion_across_modules_belongs_to_their_parent(net, rewriter, records):
    left, right, add = find(net, "relu"), find(net, "relu_1"), find(net, "add")
    with rewriter.site("Fuse", [left, right]) as edit:
        edit.replace(right, edit.aten.maximum(left, right.args[0]))
    assert records[0].site == "block"
    assert "maximum" in [node.name for node in net.nodes]
    with rewriter.site("Fuse", [find(net, "maximum"), add, find(net, "sigmoid")]) as edit:
        edit.replace(find(net, "sigmoid"), edit.aten.tanh(add))
    assert records[1].site == ""


def test_the_site_path_and_source_may_be_given(net, rewriter, records):
    relu = find(net, "relu")
    with rewriter.site("R", [relu]) as edit:
        edit.path, edit.source = "block.elsewhere", "file.py:1"
        edit.replace(relu, edit.aten.gelu(relu.args[0]))
    assert (records[0].site, records[0].source) == ("block.elsewhere", "file.py:1")


def test_dead_matched_nodes_go_and_used_ones_stay(net, rewriter, records):
    linear, relu = find(net, "linear"), find(net, "relu")
    with rewriter.site("R", [linear, relu]) as edit:
        edit.replace(relu, edit.aten.tanh(linear))
    assert [r.name for r in records[0].removed] == ["relu"]
    linear, tanh = find(net, "linear"), find(net, "tanh")
    with rewriter.site("R", [linear, tanh]) as edit:
        edit.replace(tanh, edit.aten.relu(find(net, "x")))
    assert [r.name for r in records[1].removed] == ["linear", "tanh"]
    verify(net)


def test_an_inplace_op_is_never_dead(trace, records):
    def write(x):
        y = x * 1
        y.add_(1)
        return y

    made = trace(write, torch.ones(2))
    add = next(node for node in made.nodes if node.target is aten.add_.Tensor)
    rewriter = Rewriter(made, records.append)
    with rewriter.site("R", [add]) as edit:
        edit.replace(add, add.args[0])
    assert add in made.nodes
    assert torch.equal(made.run(torch.ones(2)), torch.full((2,), 2.0))


# ---- state -----------------------------------------------------------------------------------


def test_new_state_gets_a_free_name(net, rewriter):
    relu = find(net, "relu")
    with rewriter.site("R", [relu]) as edit:
        first = edit.get_state("block.left.linear.bias", torch.full((4,), 2.0))
        second = edit.get_state("block.left.linear.bias", torch.full((4,), 3.0))
        edit.replace(relu, edit.aten.mul(edit.aten.mul(relu.args[0], first), second))
    assert (first.target, second.target) == ("block.left.linear.bias_1", "block.left.linear.bias_2")
    assert net.state["block.left.linear.bias"] is not net.state["block.left.linear.bias_1"]
    verify(net)
    assert net.run(torch.ones(1, 4))[0].shape == (1, 4)


def test_state_may_be_read_by_name(net, rewriter):
    relu, add = find(net, "relu"), find(net, "add")
    with rewriter.site("R", [relu]) as edit:
        edit.insert_before(add)
        shifted = edit.aten.add(relu, edit.get_state("block.left.linear.bias"))
        edit.replace(relu, shifted, users=lambda user: user is add)
    verify(net)
    x = torch.randn(2, 4)
    shifted_sum = sum(map(torch.relu, sides(net, x))) + net.state["block.left.linear.bias"]
    assert torch.allclose(net.run(x)[0], torch.sigmoid(shifted_sum) * 2)


def test_a_value_put_before_what_it_reads_is_refused(net, original, rewriter):
    relu, add = find(net, "relu"), find(net, "add")
    with pytest.raises(PassError, match="it would use %relu"), rewriter.site("R", [relu]) as edit:
        edit.replace(relu, edit.aten.neg(relu), users=lambda user: user is add)
    assert same(net, original)


@pytest.mark.parametrize(
    "name",
    ["block.left.linear.bias.more", "block.left", "block.left.linear", "new.folder.name", "to", "block.type", "meta"],
)
def test_new_state_never_collides_with_a_tensor_or_a_folder(net, rewriter, name):
    relu = find(net, "relu")
    with rewriter.site("R", [relu]) as edit:
        inner, again = (edit.get_state(name, torch.full((4,), factor)) for factor in (2.0, 3.0))
        edit.replace(relu, edit.aten.mul(edit.aten.mul(relu.args[0], inner), again))
    verify(net)
    x = torch.rand(1, 4)
    left, right = sides(net, x)
    assert torch.allclose(net.run(x)[0], torch.sigmoid(left * 6 + torch.relu(right)) * 2)


# ---- multiple results ------------------------------------------------------------------------


def test_tuples_are_typed(net, rewriter):
    relu = find(net, "relu")
    with rewriter.site("R", [relu]) as edit:
        halves = edit.aten.split.Tensor(relu.args[0], 2, 1)
        first, second = (edit.call(operator.getitem, halves, i) for i in range(2))
        edit.replace(relu, edit.aten.cat([second, first], 1))
    verify(net)
    assert net.run(torch.ones(3, 4))[0].shape == (3, 4)


def test_replace_reaches_nested_arguments_and_the_output(trace):
    made = trace(lambda x: (torch.cat([x * 2, x * 2 + 1]), [x * 2]), torch.ones(2))
    first = next(node for node in made.nodes if node.target is aten.mul.Tensor)
    with Rewriter(made).site("R", [first]) as edit:
        edit.replace(first, edit.aten.neg(first.args[0]))
    verify(made)
    assert torch.equal(made.run(torch.ones(2))[0][:2], -torch.ones(2))
