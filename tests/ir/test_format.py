from dataclasses import replace
from pathlib import Path

import pytest
import torch

from graphwright.ir.diff import diff
from graphwright.ir.format import format_bytes, format_call, format_diff, format_program, format_value
from graphwright.ir.program import Dim
from graphwright.ir.record import NodeRecord, Rewrite, node_record
from graphwright.ir.snapshot import Snapshot, StateRecord

GOLDEN = Path(__file__).parent / "golden"
HIDDEN = "f32[batch,sequence,8]"


def call(name, target, *args, path="", source="", type_=HIDDEN, **kwargs):
    return NodeRecord(name, "call_function", target, args, tuple(kwargs.items()), type_, path, source)


def layer(i, value):
    """Nodes of one layer: a no-op cast, and a product that is scaled."""
    path, source = f"layers.{i}.attention", "model.py:12"
    return [
        call(f"cast_{i}", "aten.to.dtype", value, ("dtype", "float32"), path=path, source="model.py:7"),
        NodeRecord(f"w_{i}", "get_attr", f"layers.{i}.weight", (), (), "f32[8,8]", "", ""),
        call(f"matmul_{i}", "aten.matmul.default", f"cast_{i}", f"w_{i}", path=path, source=source),
        call(f"mul_{i}", "aten.mul.Tensor", f"matmul_{i}", ("float", "0.125"), path=path, source=source),
    ]


def stages(layers=12):
    """A program before and after two passes and a raw edit, with the rewrites of the passes."""
    nodes = [NodeRecord("ids", "placeholder", "ids", (), (), HIDDEN, "", "")]
    for i in range(layers):
        nodes += layer(i, nodes[-1].name)
    out = NodeRecord("output", "output", "output", (("tuple", nodes[-1].name),), (), "", "", "")
    dims = (Dim("batch", "s0", 1, 64), Dim("sequence", "s1", 1))
    state = tuple(StateRecord(f"layers.{i}.weight", "f32[8,8]", 256) for i in range(layers))
    before = Snapshot("Model", (*nodes, out), state, dims)
    after, rewrites, value = nodes[:1], [], "ids"
    for i in range(layers):
        cast, weight, matmul, mul = nodes[1 + 4 * i : 5 + 4 * i]
        matmul = replace(matmul, args=(value, weight.name))
        rewrites.append(Rewrite("clean", "NoOpCast", cast.path, cast.source, (cast,), (), ((cast.name, value),)))
        fused = call(f"fused_{i}", "aten.addmm.default", value, weight.name, path=mul.path, beta=("float", "0.125"))
        replaced = ((mul.name, fused.name),)
        rewrites.append(Rewrite("fuse", "ScaledProduct", mul.path, mul.source, (matmul, mul), (fused,), replaced))
        after += [weight, fused]
        value = fused.name
    relu = call("relu", "aten.relu.default", value, path="head")
    end = replace(out, args=(("tuple", "relu"),))
    state = (StateRecord("extra", "i8[3]", 3), *state[1:-1], replace(state[-1], type="i8[8,8]", bytes=64))
    return before, Snapshot("Model", (*after, relu, end), state, dims), rewrites


@pytest.mark.parametrize("level", ["summary", "sites", "hunks", "full"])
def test_golden_diff(level):
    before, after, rewrites = stages()
    assert format_diff(diff(before, after, rewrites), level) == (GOLDEN / f"diff-{level}.txt").read_text()


def test_golden_listing():
    assert format_program(stages(2)[0]) == (GOLDEN / "program.txt").read_text()


def test_no_difference():
    before = stages()[0]
    assert str(diff(before, before)) == "Model: 50 nodes, no difference\n"


def test_values_read_like_python():
    value = ("list", "x", ("tuple", 1), ("bool", "true"), ("str", "a"), ("slice", None, 2, None), ("dtype", "int64"))
    assert format_value(value) == "[%x, (1,), True, 'a', slice(None, 2, None), int64]"
    assert format_value(("dict", (("str", "k"), ("ellipsis",)))) == "{'k': ...}"


def test_listing_of_a_program(program):
    text = format_program(program)
    assert len(text.splitlines()) == len(program.nodes) + 1 + len(program.dims)
    softmax = next(node for node in program.nodes if node.target is torch.ops.aten.softmax.int)
    assert f"= {format_call(node_record(softmax, {}))}  # layers.0  conftest.py:" in text
    assert "dim batch: 1 to 64" in text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**31, "2.0 GiB"), (2**52, "4096.0 TiB")]
)
def test_bytes(count, text):
    assert format_bytes(count) == text
