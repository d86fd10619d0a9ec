import json
import os
import subprocess
import sys

import pytest
import torch

from graphwright.ir.errors import FileFormatError
from graphwright.ir.isomorphism import collapse, repeated_layers
from graphwright.ir.snapshot import Snapshot, fingerprint

aten = torch.ops.aten


def find(program, target):
    return next(node for node in program.nodes if node.target is target)


def test_snapshot_survives_json(program):
    snapshot = Snapshot.of(program)
    assert Snapshot.from_json(json.loads(json.dumps(snapshot.to_json()))) == snapshot
    assert snapshot.fingerprint == fingerprint(program)
    assert len(snapshot.outputs) == 2


def test_clone_has_the_same_fingerprint(program):
    assert fingerprint(program.clone()) == fingerprint(program)


def test_names_do_not_count(program):
    before = fingerprint(program)
    for node in program.nodes:
        node.name = f"other_{node.name}"
    assert fingerprint(program) == before


def test_order_of_independent_nodes_does_not_count(program):
    before = fingerprint(program)
    first, second, *_ = (node for node in program.nodes if node.target is aten.linear.default)
    first.prepend(second)
    assert fingerprint(program) == before


def test_order_counts_where_an_op_writes(program):
    first, second, *_ = (node for node in program.nodes if node.target is aten.linear.default)
    first.target = aten.relu_.default
    before = fingerprint(program)
    first.prepend(second)
    assert fingerprint(program) != before


@pytest.mark.parametrize(
    "edit",
    [
        lambda p: setattr(find(p, aten.gelu.default), "target", aten.relu.default),
        lambda p: setattr(find(p, aten.gelu.default), "kwargs", {"approximate": "tanh"}),
        lambda p: find(p, aten.softmax.int).update_arg(1, 1),
        lambda p: find(p, aten.mul.Tensor).update_arg(1, 1),
        lambda p: find(p, aten.mul.Tensor).meta.update(val=torch.empty(2, device="meta")),
        lambda p: p.output_node.update_arg(0, tuple(reversed(p.output_node.args[0]))),
        lambda p: setattr(next(n for n in p.nodes if n.op == "get_attr"), "target", "another.weight"),
        lambda p: p.graph.create_node("call_function", aten.relu.default, (p.placeholders[0],)),
    ],
)
def test_what_a_program_does_counts(program, edit):
    before = fingerprint(program)
    edit(program)
    assert fingerprint(program) != before


def test_equal_literals_of_other_kinds_count(program):
    mul = find(program, aten.mul.Tensor)
    prints = set()
    for literal in (1, 1.0, True):
        mul.update_arg(1, literal)
        prints.add(fingerprint(program))
    assert len(prints) == 3


SCRIPT = """
import torch
from graphwright.ir.program import Program
from graphwright.ir.snapshot import fingerprint
from graphwright.ir.signature import Example
x = torch.ones(2, 3)
model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GELU(), torch.nn.Linear(4, 3))
print(fingerprint(Program.from_exported(torch.export.export(model, (x,)), example=Example((x,)))))
"""


def test_fingerprint_is_the_same_in_every_process():
    prints = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(prints) == 1


def test_repeated_layers(program):
    (group,) = repeated_layers(Snapshot.of(program))
    assert group.pattern == "layers.{0..11}"
    find(program, aten.gelu.default).kwargs = {"approximate": "tanh"}
    (group,) = repeated_layers(Snapshot.of(program))
    assert group.pattern == "layers.{1..11}"


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["a.0", "a.1", "a.2"], ["a.{0..2}"]),
        (["a.0.b", "a.2.b", "a.3.b"], ["a.{0,2..3}.b"]),
        (["a.0.b.0", "a.0.b.1", "a.1.b.0", "a.1.b.1"], ["a.{0..1}.b.{0..1}"]),
        (["a.0.b.0", "a.1.b.1"], ["a.0.b.0", "a.1.b.1"]),
        (["a.0", "b"], ["a.0", "b"]),
        (["h2.0"], ["h2.0"]),
        ([""], [""]),
    ],
)
def test_collapse(paths, expected):
    assert collapse(paths) == expected


@pytest.mark.parametrize("damaged", [{}, {"name": "x", "nodes": [[1]], "state": [], "dims": []}, None, []])
def test_damaged_snapshots_are_refused(damaged):
    with pytest.raises(FileFormatError):
        Snapshot.from_json(damaged)
