import json
import math
import operator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.fx import Graph

from graphwright.ir.encoding import decode, encode, freeze, references, substitute
from graphwright.ir.errors import FileFormatError, GraphwrightError
from graphwright.ir.record import NodeRecord, Rewrite, node_record
from graphwright.ir.targets import resolve_target, target_name

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text()
    | st.sampled_from(
        [
            torch.float32,
            torch.int64,
            torch.strided,
            torch.channels_last,
            torch.device("cpu"),
            torch.device("cuda", 1),
            ...,
        ]
    )
)
KEYS = st.text() | st.integers()
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner) | st.builds(slice, inner),
    max_leaves=12,
)


@given(VALUES)
def test_values_survive_json(value):
    encoded = encode(value)
    back = decode(freeze(json.loads(json.dumps(encoded))), {})
    assert back == value
    assert repr(back) == repr(value)  # tells 1 from True and 0.0 from -0.0, which == does not
    hash(encoded)


def test_nan_survives():
    assert math.isnan(decode(encode(math.nan), {}))


def test_equal_numbers_of_other_kinds_stay_apart():
    assert len({encode(value) for value in (1, 1.0, True, complex(1), "1")}) == 5
    assert encode([1]) != encode((1,))
    assert encode(0.0) != encode(-0.0)


def test_nodes_are_references():
    graph = Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    value = [x, (y, {"k": x}), slice(x, None, 2), "y"]
    encoded = encode(value)
    assert references(encoded) == ["x", "y", "x", "x"]
    assert decode(encoded, {"x": x, "y": y}) == value
    assert references(substitute(encoded, {"x": "y", "y": 3}.get)) == ["y", "y", "y"]


def test_other_values_are_refused_by_the_name_of_their_node():
    graph = Graph()
    node = graph.call_function(torch.ops.aten.relu.default, (object(),))
    with pytest.raises(GraphwrightError, match="relu"):
        node_record(node, {})


@pytest.mark.parametrize(
    "damaged", [("float", "x"), ("dtype", "nope"), ("unknown", 1), (), ("dict", 1), "missing", 1.5]
)
def test_damaged_values_are_refused(damaged):
    with pytest.raises(FileFormatError):
        decode(damaged, {})


@pytest.mark.parametrize(
    "target",
    [
        torch.ops.aten.softmax.int,
        torch.ops.aten.linear.default,
        torch.ops.aten.__and__.Tensor,
        torch.ops.higher_order.wrap_with_set_grad_enabled,
        operator.getitem,
        operator.floordiv,
        torch.sym_max,
        torch.sym_not,
        math.ceil,
        max,
    ],
)
def test_targets_are_found_again(target):
    assert resolve_target(target_name(target)) is target


@pytest.mark.parametrize(
    "name", ["os.system", "builtins.eval", "builtins.exec", "torch.load", "aten.from_file.default", "aten.nope.default"]
)
def test_other_functions_are_not_found(name):
    with pytest.raises(FileFormatError):
        resolve_target(name)


def test_records_survive_json(program):
    names = program.dim_names()
    records = [node_record(node, names) for node in program.nodes]
    assert [NodeRecord.from_json(json.loads(json.dumps(record.to_json()))) for record in records] == records
    rewrite = Rewrite("p", "R", "layers.0", "x.py:1", tuple(records[:2]), tuple(records[2:3]), (("a", "b"),))
    assert Rewrite.from_json(json.loads(json.dumps(rewrite.to_json()))) == rewrite


def test_record_says_where_and_what(program):
    softmax = next(node for node in program.nodes if node.target is torch.ops.aten.softmax.int)
    record = node_record(softmax, program.dim_names())
    assert record.type == "f32[batch,2,sequence,sequence]"
    assert record.path == "layers.0"
    assert record.source.startswith("conftest.py:")
    assert record.operation == "softmax.int"
    assert record.inputs() == [softmax.args[0].name]
