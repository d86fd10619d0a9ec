"""Programs: how they are called, what they refuse, and what copies share."""

import pytest
import torch
from torch import nn

from graphwright.ir.errors import InputError
from graphwright.ir.snapshot import fingerprint
from graphwright.passes.pipeline import Pipeline


class Net(nn.Module):
    """Positional, optional and flag arguments; a tied weight; a buffer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("shift", torch.arange(4.0))

    def forward(self, x, y, scale=None, *, double=False):
        out = self.second(torch.relu(self.first(x))) + y + self.shift
        if scale is not None:
            out = out * scale
        return {"out": out * 2 if double else out, "batch": x.shape[0]}


@pytest.fixture(scope="module")
def net():
    return Net().double()


@pytest.fixture(scope="module")
def net_program(net, trace_module):
    x, y = torch.randn(3, 5, 4).double(), torch.randn(3, 5, 4).double()
    return trace_module(net, x, y, scale=None, double=True, dynamic=(0,))


def call(batch=2, length=5):
    torch.manual_seed(batch)
    return torch.randn(batch, length, 4).double(), torch.randn(batch, length, 4).double()


# ---- calling ---------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 6])
def test_arguments_go_by_position_by_name_and_by_default(net, net_program, batch):
    x, y = call(batch)
    want = net(x, y, double=True)
    calls = [
        net_program.run(x, y, scale=None, double=True),
        net_program.run(x, y),
        net_program.run(x, y=y),
        net_program.run(y=y, x=x, double=True),
    ]
    for have in calls:
        assert list(have) == ["out", "batch"]
        assert torch.equal(have["out"], want["out"])
        assert have["batch"] == batch


def test_run_flat_gives_the_leaves_of_what_run_gives(net_program):
    x, y = call()
    assert torch.equal(net_program.run_flat(net_program.flatten(x, y))[0], net_program.run(x, y)["out"])


def test_an_unknown_argument_that_is_none_is_no_mistake(net_program):
    x, y = call()
    assert net_program.run(x, y, labels=None)["batch"] == 2


def bad_calls():
    x, y = call()
    return {
        "argument 'y' is missing": ((x,), {}),
        "argument 'labels' was not part of the captured call": ((x, y), {"labels": x}),
        "argument 'x' given twice": ((x, y), {"x": x}),
        "5 positional arguments given, 4 expected": ((x, y, None, True, 1), {}),
        "input 'x' must have dtype torch.float64, given torch.float32": ((x.float(), y), {}),
        "input 'x' must have 3 dimensions, given 2": ((x[0], y), {}),
        "input 'x' dimension 1 is 7, but the program was captured with the fixed size 5": (call(2, 7), {}),
        "input 'x' must be a tensor, given int": ((1, y), {}),
        "input 'double' was captured as the constant True, given False": ((x, y), {"double": False}),
        "the arguments have another structure than the captured call": (([x, x], y), {}),
        "both are the dimension": ((call(2)[0], call(3)[1]), {}),
    }


@pytest.mark.parametrize("text", bad_calls())
def test_a_wrong_call_says_what_is_wrong(net_program, text):
    args, kwargs = bad_calls()[text]
    with pytest.raises(InputError) as caught:
        net_program.run(*args, **kwargs)
    assert text in str(caught.value)


def test_a_scale_of_another_kind_than_the_captured_none_is_refused(net_program):
    x, y = call()
    with pytest.raises(InputError):
        net_program.run(x, y, scale=torch.ones(1).double())


def test_missing_and_fixed_sizes_come_with_a_remedy(net_program):
    with pytest.raises(InputError, match="try 1: pass 'y' as in the captured call"):
        net_program.run(call()[0])
    with pytest.raises(InputError, match="try 1: capture the model with this dimension dynamic"):
        net_program.run(*call(2, 7))


def test_sizes_outside_of_the_range_are_refused():
    from graphwright.ir.program import Program
    from graphwright.ir.signature import Example

    class Double(nn.Module):
        def forward(self, x):
            return x * 2

    x = torch.randn(4, 3)
    dim = torch.export.Dim("rows", min=2, max=8)
    exported = torch.export.export(Double(), (x,), dynamic_shapes={"x": {0: dim}})
    symbol = str(next(iter(exported.graph.find_nodes(op="placeholder"))).meta["val"].shape[0])
    made = Program.from_exported(exported, example=Example((x,), {}), names={symbol: "rows"})
    assert made.dims[0].name == "rows"
    with pytest.raises(InputError, match=r"input 'x' dimension 0 \(rows\) is 9, allowed are .* to 8"):
        made.run(torch.randn(9, 3))
    assert made.run(torch.randn(8, 3)).shape == (8, 3)


def test_outputs_keep_their_classes(trace_module):
    from transformers.modeling_outputs import BaseModelOutput

    class Model(nn.Module):
        def forward(self, x):
            return BaseModelOutput(last_hidden_state=x * 2, hidden_states=(x, x + 1))

    made = trace_module(Model(), torch.ones(2, 2))
    result = made.run(torch.ones(2, 2))
    assert type(result) is BaseModelOutput
    assert torch.equal(result.hidden_states[1], torch.full((2, 2), 2.0))


def test_none_among_the_results_stays_none(trace):
    made = trace(lambda x: (x + 1, None, [x, 3]), torch.ones(2))
    result = made.run(torch.ones(2))
    assert result[1] is None
    assert result[2][1] == 3
    assert len(made.results) == 4


def test_nested_inputs_are_bound_as_one_argument(trace):
    made = trace(lambda pair, more: pair[0] + pair[1] * more["z"], (torch.ones(2), torch.ones(2)), {"z": torch.ones(2)})
    two, three, four = (torch.full((2,), float(n)) for n in (2, 3, 4))
    assert torch.equal(made.run((two, three), {"z": four}), torch.full((2,), 14.0))
    assert torch.equal(made.run(more={"z": four}, pair=(two, three)), torch.full((2,), 14.0))


# ---- state -----------------------------------------------------------------------------------


def test_the_state_is_the_models_own(net, net_program):
    mine = {id(t) for t in [*net.parameters(), *net.buffers()]}
    assert all(id(t) in mine for t in net_program.tensors().values())


def test_tied_weights_count_once(net, net_program):
    assert net_program.state_bytes() == net.first.weight.nbytes + net.shift.nbytes


def test_views_of_one_storage_count_once(trace):
    base = torch.arange(8.0)
    made = trace(lambda m, x: x + m.a + m.b, torch.ones(4), a=base[:4], b=base[4:])
    assert made.state_bytes() == base.nbytes


@pytest.mark.parametrize("layout", ["coo", "csr", "csc"])
def test_sparse_state_counts_its_parts(trace, layout):
    rows, columns, starts, values = (torch.tensor(part) for part in ([0, 1], [1, 0], [0, 1, 2], [2.0, 3.0]))
    made = trace(lambda m, x: x + m.a, torch.ones(4), a=torch.ones(4))
    before = made.state_bytes()
    made.state["sparse"], indices = {
        "coo": lambda: (torch.sparse_coo_tensor(torch.stack([rows, columns]), values, (2, 2)), 4),
        "csr": lambda: (torch.sparse_csr_tensor(starts, columns, values, (2, 2)), 5),
        "csc": lambda: (torch.sparse_csc_tensor(starts, rows, values, (2, 2)), 5),
    }[layout]()
    assert made.state_bytes() - before == 8 * indices + 4 * 2


def test_gradients_reach_the_models_weights(net, net_program):
    x, y = call()
    net.zero_grad()
    net(x, y, double=True)["out"].square().sum().backward()
    want = net.first.weight.grad.clone()
    net.zero_grad()
    net_program.run(x, y)["out"].square().sum().backward()
    assert torch.allclose(net.first.weight.grad, want, rtol=1e-12)
    net.zero_grad()


def test_a_changed_weight_is_seen_by_the_next_run(net, net_program):
    x, y = call()
    with torch.no_grad():
        net.first.weight.mul_(1.5)
    assert torch.equal(net_program.run(x, y)["out"], net(x, y, double=True)["out"])


# ---- copies ----------------------------------------------------------------------------------


def test_a_clone_runs_the_same_and_shares_the_weights(net_program):
    clone = net_program.clone()
    x, y = call()
    assert torch.equal(clone.run(x, y)["out"], net_program.run(x, y)["out"])
    assert all(clone.state[name] is tensor for name, tensor in net_program.state.items())
    assert fingerprint(clone) == fingerprint(net_program)
    assert [n.name for n in clone.nodes] == [n.name for n in net_program.nodes]


def test_editing_a_clone_leaves_the_original_alone(net_program):
    before, clone = fingerprint(net_program), net_program.clone()
    node = next(n for n in clone.nodes if "relu" in str(n.target))
    node.replace_all_uses_with(node.args[0])
    clone.graph.erase_node(node)
    clone.state["extra"] = torch.ones(1)
    clone.touch()
    assert fingerprint(net_program) == before != fingerprint(clone)
    assert "extra" not in net_program.state
    x, y = call()
    assert not torch.equal(clone.run(x, y)["out"], net_program.run(x, y)["out"])


def test_metadata_of_a_clone_is_its_own(net_program):
    clone = net_program.clone()
    clone.nodes[0].meta["mark"] = 1
    clone.output_node.meta["mark"] = 1
    assert all("mark" not in node.meta for node in net_program.nodes)


def test_the_module_is_rebuilt_only_after_a_change(net_program):
    clone = net_program.clone()
    first = clone.module
    assert clone.module is first
    clone.touch()
    assert clone.module is not first


def test_a_pipeline_does_not_change_the_callers_program(net_program):
    before, revision, state = fingerprint(net_program), net_program.revision, dict(net_program.state)
    result = Pipeline("canonicalize,fuse-attention").run(net_program)
    assert (fingerprint(net_program), net_program.revision) == (before, revision)
    assert net_program.state == state
    assert not net_program.invariants
    assert result.program is not net_program
    assert "canonical" in result.program.invariants


def test_in_place_changes_the_callers_program(net_program):
    clone = net_program.clone()
    result = Pipeline("canonicalize").run(clone, in_place=True)
    assert result.program is clone
    assert "canonical" in clone.invariants


# ---- torch.export ----------------------------------------------------------------------------


def test_back_to_torch_export_with_dynamic_sizes(net, net_program):
    exported = net_program.to_exported()
    x, y = call(7)
    have = exported.module()(x, y, scale=None, double=True)
    assert torch.equal(have["out"], net(x, y, double=True)["out"])
