import json

import pytest
import torch

from graphwright.ir.errors import FileFormatError, GraphwrightError
from graphwright.ir.program import Program
from graphwright.ir.signature import Example
from graphwright.passes.pipeline import Pipeline
from graphwright.passes.trace import Trace

aten = torch.ops.aten


@pytest.fixture(scope="module")
def program():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.GELU(), torch.nn.Linear(3, 3), torch.nn.GELU())
    x = torch.ones(2, 3)
    return Program.from_exported(torch.export.export(model, (x,)), example=Example((x,)), name="Two")


def swap(program, rewriter, old, new):
    for node in program.nodes:
        if node.target is old:
            with rewriter.site("Swap", [node]) as edit:
                edit.replace(node, edit.call(new, node.args[0]))


def to_relu(program, rewriter):
    swap(program, rewriter, aten.gelu.default, aten.relu.default)


def to_tanh(program, rewriter):
    swap(program, rewriter, aten.relu.default, aten.tanh.default)


def nothing(program, rewriter):
    return ["nearly matched"]


@pytest.fixture
def trace(program):
    return Pipeline([to_relu, nothing, to_tanh]).run(program, validate=False).trace


def test_a_trace_survives_json(trace):
    back = Trace.from_json(json.loads(json.dumps(trace.to_json())))
    assert back == trace
    assert [record.changed for record in back.records] == [True, False, True]
    assert str(back.diff()) == str(trace.diff())
    assert back.records[1].misses == ("nearly matched",)


def test_each_distinct_snapshot_is_stored_once(trace):
    assert len(trace.to_json()["snapshots"]) == 3


def test_diffs_of_one_pass_and_of_all(trace):
    assert trace.diff("to_relu").ops == {"relu": 2, "gelu": -2}
    assert trace.diff("to_tanh").ops == {"tanh": 2, "relu": -2}
    assert trace.diff().ops == {"tanh": 2, "gelu": -2}
    assert [(h.first.pass_name, h.sites) for h in trace.diff().hunks] == [
        ("to_relu", ["{1,3}"]),
        ("to_tanh", ["{1,3}"]),
    ]
    assert not trace.diff().untracked
    assert not trace.diff("nothing")


def test_diff_of_a_pass_that_ran_twice(program):
    def back(program, rewriter):
        swap(program, rewriter, aten.relu.default, aten.gelu.default)

    trace = Pipeline([to_relu, back, to_relu]).run(program, validate=False).trace
    difference = trace.diff("to_relu")
    assert difference.ops == {"relu": 2, "gelu": -2}
    assert {hunk.first.pass_name for hunk in difference.hunks} == {"to_relu"}
    assert not difference.untracked


def test_diff_of_a_pass_that_did_not_run(trace):
    with pytest.raises(GraphwrightError, match="to_relu, nothing, to_tanh"):
        trace.diff("other")


def test_a_raw_edit_in_a_pass_is_untracked(program):
    def raw(program, rewriter):
        next(node for node in program.nodes if node.target is aten.gelu.default).kwargs = {"approximate": "tanh"}

    trace = Pipeline([raw]).run(program, validate=False).trace
    assert "untracked edit" in str(trace.diff())


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"format": "x"}', '{"format": "graphwright-trace", "version": 1}'])
def test_damaged_traces_are_refused_by_name(damage, tmp_path):
    (tmp_path / "trace.json").write_text(damage)
    with pytest.raises(FileFormatError):
        Trace.load(tmp_path / "trace.json")


def test_a_missing_trace_is_named(tmp_path):
    with pytest.raises(FileFormatError, match=r"nowhere\.json"):
        Trace.load(tmp_path / "nowhere.json")
