"""Pipelines: checked before they run, recorded and guarded while they run, undone afterwards."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from graphwright.ir.errors import InputError, MismatchError, PassError, PipelineError, VerifyError
from graphwright.ir.snapshot import fingerprint
from graphwright.passes.base import Pass
from graphwright.passes.instruments import Instrument, Numerics
from graphwright.passes.patterns import Rule
from graphwright.passes.patterns import aten as pattern_aten
from graphwright.passes.pipeline import Pipeline, Repeat

aten = torch.ops.aten


@pytest.fixture(autouse=True)
def passes_may_change_values(monkeypatch):
    """Passes of these tests double and negate on purpose; what catches that has tests of its own."""
    monkeypatch.setattr("graphwright.passes.pipeline._VALIDATED_BYTES", -1)


def make(name, apply=lambda self, program, rewriter: None, requires=(), establishes=(), breaks=()):
    """A pass class of its own."""
    facts = {"requires": requires, "establishes": establishes, "breaks": breaks}
    members = {key: frozenset(value) for key, value in facts.items()}
    return dataclass(frozen=True)(type(name, (Pass,), {**members, "name": name, "apply": apply}))()


def swap(old, new):
    """A pass function: calls of `old` become calls of `new`."""

    def apply(program, rewriter):
        for node in program.graph.find_nodes(op="call_function", target=old):
            with rewriter.site("Swap", [node]) as edit:
                edit.replace(node, edit.call(new, *node.args))

    apply.__name__ = "swap"
    return apply


class ToTanh(Rule):
    """relu(x) -> tanh(x)."""

    def pattern(self, x):
        return pattern_aten.relu(x)

    def rewrite(self, m, rw):
        return rw.aten.tanh(m.x)


class Log(Instrument):
    """Remembers what it was told."""

    def __init__(self, fail=None):
        self.calls, self.fail = [], fail
        self.program = None

    def start(self, program):
        self.calls.append("start")

    def before_pass(self, pass_, program):
        self.calls.append(f"before {pass_}")

    def on_rewrite(self, rewrite):
        self.calls.append(f"rewrite {rewrite.rule}")

    def after_pass(self, pass_, program, record):
        self.calls.append(f"after {pass_} {record.changed}")
        if self.fail == str(pass_):
            raise MismatchError("I object")

    def on_failure(self, pass_, program, error):
        self.calls.append(f"failure {pass_} {type(error).__name__}")
        self.program = program

    def finish(self, result):
        self.calls.append("finish")


@pytest.fixture(scope="module")
def relu(trace_module):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("shift", torch.ones(3))

        def forward(self, x):
            return torch.relu(x) + self.shift

    return trace_module(Net(), torch.randn(2, 3), dynamic=(0,))


X = torch.tensor([[-1.0, 0.5, 2.0]])


# ---- building --------------------------------------------------------------------------------


def test_texts_passes_rules_and_functions_mix():
    function = swap(aten.relu.default, aten.gelu.default)
    pipeline = Pipeline(["canonicalize, fuse-attention", Repeat(2, (make("a"),)), ToTanh, ToTanh(), function])
    assert str(pipeline) == "canonicalize,fuse-attention,repeat{times=2}(a),ToTanh,ToTanh,swap"
    assert repr(Pipeline("canonicalize")) == "Pipeline('canonicalize')"


def test_a_pass_class_stands_for_its_default_instance():
    from graphwright.passes.attention.fuse import FuseAttention

    assert Pipeline(FuseAttention) == Pipeline([FuseAttention]) == Pipeline("fuse-attention")


@pytest.mark.parametrize("thing", [3, None, dict, object()])
def test_other_things_are_refused(thing):
    with pytest.raises(PipelineError, match="neither a pass"):
        Pipeline([thing])


def test_equality_and_addition():
    assert Pipeline() == Pipeline("default") == Pipeline("canonicalize,fuse-attention")
    assert Pipeline("canonicalize") + "fuse-attention{expect=all}" == Pipeline(
        "canonicalize,fuse-attention{expect=all}"
    )
    assert Pipeline("canonicalize") != Pipeline("canonicalize{fold_limit=1}")
    assert Pipeline("canonicalize") != "canonicalize"
    assert len({Pipeline("canonicalize"), Pipeline("canonicalize{}")}) == 1


def test_an_empty_pipeline_changes_nothing(relu):
    assert Pipeline("") == Pipeline([])
    result = Pipeline("").run(relu)
    assert fingerprint(result.program) == fingerprint(relu)
    assert fingerprint(result.original) == fingerprint(relu)


def test_a_needed_invariant_that_is_broken_before_is_an_error():
    needs, breaks, gives = make("needs", requires=["x"]), make("breaks", breaks=["x"]), make("gives", establishes=["x"])
    with pytest.raises(PipelineError, match="pass 'needs' needs 'x', which 'breaks' breaks"):
        Pipeline([gives, breaks, needs])
    with pytest.raises(PipelineError, match="'breaks' breaks"):
        Pipeline([needs, breaks, needs])
    assert Pipeline([gives, breaks, gives, needs]).requires == frozenset()
    assert Pipeline([needs, gives]).requires == {"x"}
    assert Pipeline([gives, needs, breaks]).requires == frozenset()


def test_what_a_repeat_breaks_for_its_own_second_round_is_an_error():
    needs, breaks = make("needs", requires=["x"]), make("breaks", breaks=["x"])
    with pytest.raises(PipelineError, match="'breaks' breaks"):
        Pipeline([Repeat(2, (needs, breaks))])
    assert Pipeline([Repeat(1, (needs, breaks))]).requires == {"x"}


def test_a_program_without_the_invariants_is_refused(relu):
    with pytest.raises(PipelineError) as caught:
        Pipeline("fuse-attention").run(relu)
    assert "needs a program that is canonical, functional" in str(caught.value)
    assert "put 'canonicalize' first" in str(caught.value)


# ---- running ---------------------------------------------------------------------------------


def test_instruments_are_told_in_order(relu):
    log = Log()
    Pipeline([swap(aten.relu.default, aten.gelu.default), make("idle")]).run(relu, [log])
    assert log.calls == [
        "start",
        "before swap",
        "rewrite Swap",
        "after swap True",
        "before idle",
        "after idle False",
        "finish",
    ]


def test_rules_and_functions_run(relu):
    result = Pipeline(ToTanh).run(relu)
    assert torch.equal(result.program.run(X), torch.tanh(X) + 1)
    result = Pipeline(swap(aten.relu.default, aten.sigmoid.default)).run(relu)
    assert torch.equal(result.program.run(X), torch.sigmoid(X) + 1)
    assert torch.equal(relu.run(X), torch.relu(X) + 1)


def test_invariants_follow_the_passes(relu):
    gives, breaks = make("gives", establishes=["x", "y"]), make("breaks", breaks=["x"])
    assert Pipeline([gives, breaks]).run(relu).program.invariants == {"y"}


def test_repeat_stops_when_nothing_changes(relu):
    log = Log()
    swaps = [swap(aten.relu.default, aten.gelu.default), swap(aten.gelu.default, aten.tanh.default)]
    result = Pipeline(["canonicalize", Repeat(10, tuple(Pipeline(swaps).passes))]).run(relu, [log])
    assert log.calls.count("before swap") == 4
    assert torch.equal(result.program.run(X), torch.tanh(X) + 1)


def test_repeat_stops_after_so_many_times(relu):
    flip = Pipeline([swap(aten.relu.default, aten.neg.default), swap(aten.neg.default, aten.relu.default)]).passes
    log = Log()
    Pipeline([Repeat(3, flip)]).run(relu, [log])
    assert log.calls.count("before swap") == 6


def test_an_edit_behind_the_rewriters_back_is_noticed(relu):
    def raw(program, rewriter):
        (add,) = program.graph.find_nodes(op="call_function", target=aten.add.Tensor)
        add.args = (add.args[0], add.args[0])

    result = Pipeline(raw).run(relu)
    assert result.trace.records[0].changed
    assert torch.equal(result.program.run(X), torch.relu(X) * 2)
    assert torch.equal(result.undo("raw").run(X), relu.run(X))


# ---- failing ---------------------------------------------------------------------------------


def half_done(program, rewriter):
    """Edits the graph, the state and the facts, by the Rewriter and behind its back, and then fails."""
    swap(aten.relu.default, aten.gelu.default)(program, rewriter)
    program.state["shift"] = torch.zeros(3)
    program.invariants = frozenset({"nonsense"})
    program.name, program.dims = "other", ()
    program.graph.erase_node(program.output_node)
    raise RuntimeError("on purpose")


@pytest.mark.parametrize("in_place", [False, True])
def test_a_failing_pass_leaves_the_program_as_it_was(relu, in_place):
    clone, log = relu.clone(), Log()
    with pytest.raises(PassError, match="pass 'half_done' failed: RuntimeError: on purpose") as caught:
        Pipeline([make("idle"), half_done]).run(clone, [log], in_place=in_place)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert fingerprint(clone) == fingerprint(relu)
    assert clone.state == relu.state
    assert (clone.name, clone.dims, clone.invariants) == (relu.name, relu.dims, relu.invariants)
    assert torch.equal(clone.run(X), relu.run(X))
    assert log.calls[-1] == "failure half_done RuntimeError"
    assert "finish" not in log.calls
    assert fingerprint(log.program) == fingerprint(relu)


def test_passes_before_the_failing_one_stay_done_in_place(relu):
    clone = relu.clone()
    with pytest.raises(PassError):
        Pipeline([swap(aten.relu.default, aten.tanh.default), half_done]).run(clone, in_place=True)
    assert torch.equal(clone.run(X), torch.tanh(X) + 1)


def test_a_broken_program_stops_the_pipeline_and_names_the_pass(relu):
    def breaks_order(program, rewriter):
        (add,) = program.graph.find_nodes(op="call_function", target=aten.add.Tensor)
        add.args[0].prepend(add)

    clone, log = relu.clone(), Log()
    with pytest.raises(VerifyError, match="not defined before it") as caught:
        Pipeline(breaks_order).run(clone, [log], in_place=True)
    assert caught.value.__notes__ == ["in pass 'breaks_order'"]
    assert fingerprint(clone) == fingerprint(relu)
    assert log.calls[-1] == "failure breaks_order VerifyError"
    Pipeline(breaks_order).run(relu, verify=False)


def test_a_false_claim_is_found(trace):
    def inplace(x):
        y = x * 2
        y.add_(1)
        return y

    made = trace(inplace, torch.ones(2))
    work = swap(aten.mul.Tensor, aten.add.Tensor)
    claims = make("claims", lambda self, program, rewriter: work(program, rewriter), establishes=["functional"])
    with pytest.raises(VerifyError, match="'functional' does not hold"):
        Pipeline(claims).run(made)


def test_an_instrument_may_stop_the_pipeline(relu):
    clone, log = relu.clone(), Log(fail="swap")
    with pytest.raises(MismatchError, match="I object"):
        Pipeline(swap(aten.relu.default, aten.tanh.default)).run(clone, [log], in_place=True)
    assert fingerprint(clone) == fingerprint(relu)
    assert log.calls[-1] == "failure swap MismatchError"


def test_numerics_name_the_pass_that_is_wrong(relu):
    right = make("right", lambda self, program, rewriter: swap(aten.relu.default, aten.relu.default)(program, rewriter))
    with pytest.raises(MismatchError, match="pass 'swap' changes result 0 of 'Net'"):
        Pipeline([right, swap(aten.relu.default, aten.tanh.default)]).run(relu, [Numerics()])


# ---- undoing ---------------------------------------------------------------------------------


def test_undo_gives_the_program_before_a_pass(relu):
    first, second = swap(aten.relu.default, aten.tanh.default), swap(aten.tanh.default, aten.sigmoid.default)
    second.__name__ = "second"
    result = Pipeline([first, make("idle"), second]).run(relu)
    assert torch.equal(result.undo("swap").run(X), torch.relu(X) + 1)
    assert torch.equal(result.undo("idle").run(X), torch.tanh(X) + 1)
    assert torch.equal(result.undo("second").run(X), torch.tanh(X) + 1)
    assert torch.equal(result.program.run(X), torch.sigmoid(X) + 1)
    assert fingerprint(result.undo("swap")) == fingerprint(relu) == fingerprint(result.original)


def test_undo_of_a_last_pass_that_changed_nothing(relu):
    result = Pipeline([swap(aten.relu.default, aten.tanh.default), make("idle")]).run(relu)
    assert fingerprint(result.undo("idle")) == fingerprint(result.program)


def test_undo_by_name_with_options_and_within_repeat(relu):
    result = Pipeline("repeat{times=2}(canonicalize{fold_limit=8}),canonicalize").run(relu)
    assert fingerprint(result.undo("canonicalize{fold_limit=8}")) == fingerprint(result.program)
    flip = Pipeline([swap(aten.relu.default, aten.neg.default), swap(aten.neg.default, aten.relu.default)]).passes
    result = Pipeline([Repeat(2, flip)]).run(relu)
    assert torch.equal(result.undo("swap").run(X), -X + 1)


def test_what_was_undone_is_free_to_be_edited(relu):
    result = Pipeline(swap(aten.relu.default, aten.tanh.default)).run(relu)
    Pipeline(swap(aten.relu.default, aten.neg.default)).run(result.undo("swap"), in_place=True)
    assert torch.equal(result.undo("swap").run(X), relu.run(X))


def test_undoing_a_pass_that_did_not_run(relu):
    result = Pipeline("canonicalize").run(relu)
    with pytest.raises(PipelineError, match=r"pass 'fuse-attention' did not run\n  why: these ran: canonicalize"):
        result.undo("fuse-attention")


def test_the_result_still_checks_its_inputs(relu):
    with pytest.raises(InputError, match="fixed size 3"):
        Pipeline("canonicalize").run(relu).program.run(torch.ones(2, 4))
