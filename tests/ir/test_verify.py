"""The verifier finds each kind of broken program, and says where."""

import operator

import pytest
import torch
from torch import nn

from graphwright.ir.errors import VerifyError
from graphwright.ir.verify import verify

aten = torch.ops.aten


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, y):
        return torch.relu(self.linear(x)) + y, x * 2


@pytest.fixture(scope="module")
def sound(trace_module):
    return trace_module(Net(), torch.randn(3, 4), torch.randn(3, 4), dynamic=(0,))


@pytest.fixture
def net(sound):
    return sound.clone()


def find(program, name):
    return next(node for node in program.nodes if node.name == name)


def use_before_definition(net):
    find(net, "x").prepend(find(net, "relu"))
    return "uses %linear, which is not defined before it"


def use_of_an_erased_value(net):
    relu = find(net, "relu")
    relu._erased = True
    relu._remove_from_list()
    return "uses %relu, which is not defined before it"


def value_of_another_program(net):
    find(net, "relu").args = (find(net.clone(), "linear"),)
    return "uses %linear, which is not defined before it"


def output_not_last(net):
    net.graph.call_function(aten.relu.default, (find(net, "relu"),)).meta["val"] = find(net, "relu").meta["val"]
    return "this output is not the last node"


def no_output(net):
    net.graph.erase_node(net.output_node)
    return "the last node is not the output"


def two_outputs(net):
    net.graph.output((find(net, "relu"), find(net, "mul")))
    return "this output is not the last node"


def missing_state(net):
    del net.state["linear.weight"]
    return "reads 'linear.weight', which is not in the state"


def method_call(net):
    relu = find(net, "relu")
    relu.op, relu.target = "call_method", "relu"
    return "node kind 'call_method' does not occur in programs"


def module_call(net):
    relu = find(net, "relu")
    relu.op, relu.target = "call_module", "linear"
    return "node kind 'call_module' does not occur in programs"


def no_type(net):
    del find(net, "relu").meta["val"]
    return "has users but no recorded type"


def no_function(net):
    find(net, "relu").target = "relu"
    return "calls 'relu', which is neither an op nor a function"


def one_result_less(net):
    net.output_node.args = ((find(net, "add"),),)
    return "1 results, the signature has 2"


def one_input_less(net):
    add, y = find(net, "add"), find(net, "y")
    add.args = (add.args[0], add.args[0])
    net.graph.erase_node(y)
    return "1 inputs, the signature has 2"


def input_after_a_call(net):
    find(net, "relu").append(find(net, "y"))
    return "this input comes after a call"


BREAKS = [
    use_before_definition, use_of_an_erased_value, value_of_another_program, output_not_last, no_output, two_outputs,
    missing_state, method_call, module_call, no_type, no_function, one_result_less, one_input_less,
    input_after_a_call,
]  # fmt: skip


def test_a_sound_program_passes(sound):
    verify(sound)


@pytest.mark.parametrize("break_it", BREAKS)
def test_each_violation_is_found(net, break_it):
    reason = break_it(net)
    with pytest.raises(VerifyError) as caught:
        verify(net)
    assert reason in str(caught.value)


def test_the_error_names_program_node_module_line_and_the_number_of_others(net):
    for name in ("relu", "linear"):
        del find(net, name).meta["val"]
    with pytest.raises(VerifyError) as caught:
        verify(net)
    lines = str(caught.value).splitlines()
    assert lines[0] == "the program 'Net' is not valid (1 more violations)"
    assert lines[1].startswith("  at: %linear (linear, test_verify.py:")
    assert lines[2] == "  why: has users but no recorded type"


# ---- invariants ------------------------------------------------------------------------------


def check(program, *invariants):
    program.invariants = frozenset(invariants)
    verify(program)


def inplace(x):
    y = x * 2
    y[:, 0].add_(1)
    return y


def test_functional_means_no_hidden_writes(trace):
    made = trace(inplace, torch.ones(2, 2))
    check(made)
    with pytest.raises(VerifyError, match=r"'functional' does not hold: aten.add_.Tensor writes to its argument"):
        check(made, "functional")


def test_writes_that_the_caller_sees_are_functional(trace):
    def write(m, x):
        x[0].add_(1)
        m.count.add_(1)
        return x * m.count

    check(trace(write, torch.ones(2), count=torch.zeros(2)), "functional")


@pytest.mark.parametrize(
    "active",
    [
        lambda x: torch.dropout(x, 0.5, True),
        lambda x: torch.alpha_dropout(x, 0.5, True),
        lambda x: nn.functional.batch_norm(x, None, None, training=True),
        lambda x: nn.functional.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
    ],
)
def test_inference_means_no_active_dropout_or_batch_statistics(trace, active):
    made = trace(active, torch.rand(2, 3, 4))
    check(made)
    with pytest.raises(VerifyError, match=r"'inference' does not hold: .* is in training mode"):
        check(made, "inference")


@pytest.mark.parametrize(
    "inactive",
    [
        lambda x: torch.dropout(x, 0.5, False),
        lambda x: torch.dropout(x, 0.0, True),
        lambda x: nn.functional.batch_norm(x, x.mean((0, 2)), x.var((0, 2)), training=False),
        lambda x: nn.functional.scaled_dot_product_attention(x, x, x),
    ],
)
def test_inactive_training_ops_are_inference(trace, inactive):
    check(trace(inactive, torch.rand(2, 3, 4)), "inference")


def test_canonical_means_no_noise(trace):
    made = trace(lambda x: x.detach().to(torch.float64) + 1, torch.ones(2))
    noisy = [node for node in made.nodes if "assert" in str(node.target)]
    assert noisy
    with pytest.raises(VerifyError, match=r"'canonical' does not hold: .* should have been removed"):
        check(made, "canonical")


def test_an_unknown_invariant_is_somebody_elses(net):
    check(net, "packed-by-another-package")


def test_getitem_and_python_arithmetic_are_functions(trace):
    made = trace(lambda x: x.split(2)[0] * (x.shape[0] * 2 + 1), torch.ones(5, 2), dynamic=(0,))
    assert {node.target for node in made.nodes} & {operator.getitem, operator.mul, operator.add}
    verify(made)
