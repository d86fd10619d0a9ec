from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphwright.ir.diff import apply, diff
from graphwright.ir.errors import GraphwrightError
from graphwright.ir.record import NodeRecord
from graphwright.ir.rewriter import Rewriter
from graphwright.ir.snapshot import Snapshot, StateRecord

aten = torch.ops.aten


def fuse_attention(program, rewrites):
    """Replace the written-out attention of each block."""
    rewriter = Rewriter(program, rewrites.append, "fuse")
    for node in program.nodes:
        if node.target is aten.softmax.int:
            (mul,) = node.all_input_nodes
            product, scale = mul.args
            query, transposed = product.args
            (mixed,) = node.users
            with rewriter.site("Attention", [transposed, product, mul, node, mixed]) as edit:
                sdpa = edit.aten.scaled_dot_product_attention
                edit.replace(mixed, sdpa(query, transposed.args[0], mixed.args[1], scale=scale))


def records(draw, count):
    """A random program: each node uses some of those before it."""
    nodes = []
    for i in range(count):
        inputs = draw(st.lists(st.sampled_from([n.name for n in nodes]), max_size=2)) if nodes else []
        op, path = draw(st.sampled_from("abc")), draw(st.sampled_from(["", "x.0", "x.1"]))
        nodes.append(
            NodeRecord(f"n{i}", "call_function", op, (*inputs, draw(st.integers(0, 1))), (), "f32[2]", path, "")
        )
    return nodes


def edited(draw, nodes):
    """The same nodes with some removed, added, changed, renamed, moved."""
    result = list(nodes)
    for i in range(draw(st.integers(0, 6))):
        kind = draw(st.sampled_from(["remove", "add", "change", "rename", "move", "swap names"]))
        if not result:
            break
        at, to = (draw(st.integers(0, len(result) - 1)) for _ in range(2))
        node = result[at]
        if kind == "remove":
            del result[at]
        elif kind == "add":
            result.insert(at, replace(node, name=f"m{i}"))
        elif kind == "change":
            result[at] = replace(node, args=(node.name, i), type="i64[]")
        elif kind == "rename":
            result[at] = replace(node, name=f"r{i}")
        elif kind == "move":
            result.insert(to, result.pop(at))
        else:
            result[at], result[to] = replace(node, name=result[to].name), replace(result[to], name=node.name)
    names = {}
    return [replace(n, name=n.name) for n in result if names.setdefault(n.name, n) is n]


STATES = st.dictionaries(st.sampled_from("abc"), st.sampled_from(["f32[2]", "i8[2]"]))


@st.composite
def snapshots(draw):
    before = records(draw, draw(st.integers(0, 12)))
    related = draw(st.booleans())
    after = edited(draw, before) if related else records(draw, draw(st.integers(0, 12)))
    states = [tuple(StateRecord(k, t, 8) for k, t in sorted(draw(STATES).items())) for _ in range(2)]
    return Snapshot("p", tuple(before), states[0]), Snapshot("q", tuple(after), states[1])


@given(snapshots())
def test_applying_a_diff_gives_the_second_snapshot(pair):
    before, after = pair
    difference = diff(before, after)
    assert apply(difference, before) == after
    assert bool(difference) == ((before.nodes, before.state) != (after.nodes, after.state))
    assert str(difference)


@given(snapshots())
def test_no_difference_to_itself(pair):
    assert not diff(pair[0], pair[0])


def test_applying_to_another_snapshot_is_refused(program):
    before = Snapshot.of(program)
    fuse_attention(program, [])
    difference = diff(before, Snapshot.of(program))
    with pytest.raises(GraphwrightError, match="does not belong"):
        apply(difference, Snapshot.of(program))


def test_layers_are_one_hunk_and_nothing_is_untracked(program):
    before, rewrites = Snapshot.of(program), []
    fuse_attention(program, rewrites)
    after = Snapshot.of(program)
    difference = diff(before, after, rewrites)
    (hunk,) = difference.hunks
    assert len(hunk.rewrites) == 12
    assert hunk.sites == ["layers.{0..11}"]
    assert not difference.untracked
    assert difference.ops["scaled_dot_product_attention"] == 12
    assert difference.ops["matmul"] == -24
    assert apply(difference, before) == after


def test_without_records_the_layers_are_still_one_hunk(program):
    before = Snapshot.of(program)
    fuse_attention(program, [])
    difference = diff(before, Snapshot.of(program))
    (hunk,) = difference.untracked
    assert hunk.sites == ["layers.{0..11}"]
    assert not difference.hunks


def test_raw_edits_are_untracked(program):
    before, rewrites = Snapshot.of(program), []
    fuse_attention(program, rewrites)
    gelu = [node for node in program.nodes if node.target is aten.gelu.default][3]
    gelu.kwargs = {"approximate": "tanh"}
    shift = next(node for node in program.nodes if node.target is aten.add.Tensor)
    shift.replace_all_uses_with(shift.args[0])
    program.graph.erase_node(shift)
    difference = diff(before, Snapshot.of(program), rewrites)
    changed = {record.name for hunk in difference.untracked for w in hunk.rewrites for record in w.removed}
    assert gelu.name in changed
    assert shift.name in changed
    assert not any(name.startswith("scaled_dot") for name in changed)


def test_edit_of_a_recorded_node_is_untracked(program):
    before, rewrites = Snapshot.of(program), []
    fuse_attention(program, rewrites)
    sdpa = next(node for node in program.nodes if node.target is aten.scaled_dot_product_attention.default)
    sdpa.kwargs = {"scale": 0.25}
    difference = diff(before, Snapshot.of(program), rewrites)
    (hunk,) = difference.untracked
    assert [record.name for record in hunk.first.added] == [sdpa.name]


def test_a_replaced_value_may_be_a_number(program):
    before, rewrites = Snapshot.of(program), []
    rewriter = Rewriter(program, rewrites.append, "sizes")
    graph = program.graph
    with graph.inserting_before(program.output_node):
        size = graph.call_function(aten.sym_size.int, (program.placeholders[0], 1))
        size.meta["val"] = 5
        shape = graph.call_function(aten.ones.default, ([size, 2],))
        shape.meta["val"] = torch.empty(5, 2, device="meta")
    before = Snapshot.of(program)
    with rewriter.site("Size", [size]) as edit:
        edit.replace(size, 5)
    difference = diff(before, Snapshot.of(program), rewrites)
    assert not difference.untracked
    assert difference.changes.changed[0][1].args == (("list", 5, 2),)


def test_programs_with_other_names_match_by_structure(program):
    before = Snapshot.of(program)
    for node in program.nodes:
        if node.op not in ("placeholder", "output"):
            node.name = f"other_{node.name}"
    gelu = next(node for node in program.nodes if node.target is aten.gelu.default)
    gelu.kwargs = {"approximate": "tanh"}
    after = Snapshot.of(program)
    difference = diff(before, after)
    assert [(a.operation, b.operation) for a, b in difference.changes.changed] == [("gelu", "gelu")]
    assert not difference.changes.removed
    assert not difference.changes.added
    assert apply(difference, before) == after
