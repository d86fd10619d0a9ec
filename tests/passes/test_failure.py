"""A pass that fails: the exception says where, the program is intact, and a folder reproduces it alone."""

import json
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from graphwright.ir.errors import GraphwrightError, MismatchError, PassError
from graphwright.ir.program import Program
from graphwright.ir.signature import Example
from graphwright.ir.snapshot import fingerprint
from graphwright.passes.base import Pass
from graphwright.passes.instruments import DumpDir, Numerics
from graphwright.passes.patterns import Rule, aten
from graphwright.passes.pipeline import Pipeline
from graphwright.passes.registry import register_pass

relu = torch.ops.aten.relu.default


class Fails(Rule):
    """relu(x) -> an op that does not take x"""

    def pattern(self, x):
        return aten.relu(x)

    def rewrite(self, m, rw):
        return rw.aten.linear(m.x, m.x, m.x, m.x)


class ChecksBadly(Rule):
    """relu(x), with a check that fails instead of refusing"""

    def pattern(self, x):
        return aten.relu(x)

    def check(self, m):
        raise ZeroDivisionError("in the check")


@register_pass("test-fails-after-one", replace=True)
@dataclass(frozen=True)
class FailsAfterOne(Pass):
    """Rewrites one relu, then raises."""

    after: int = 1

    def apply(self, program, rewriter):
        for i, node in enumerate([node for node in program.nodes if node.target is relu]):
            with rewriter.site("Clamp", [node]) as edit:
                if i == self.after:
                    raise RuntimeError("half-way\n\"'quoted'\"")
                edit.replace(node, edit.aten.clamp_min(node.args[0], 0))


def doubles(program, rewriter):
    """Wrong numbers."""
    node = next(node for node in reversed(program.nodes) if node.target is relu)
    with rewriter.site("Double", [node]) as edit:
        edit.replace(node, edit.aten.mul(node.args[0], 2))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(2))

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


@pytest.fixture(scope="module")
def program():
    x = torch.randn(2, 3)
    return Program.from_exported(torch.export.export(Two(), (x,)), example=Example((x,)), name="Two")


def fail(program, step, folder, error=GraphwrightError, in_place=False, validate=None):
    """Run one step that must fail; gives the error and the folder that it left."""
    before = fingerprint(program)
    with pytest.raises(error) as caught:
        Pipeline([step]).run(program, [Numerics(), DumpDir(folder)], in_place=in_place, validate=validate)
    assert fingerprint(program) == before
    (left,) = folder.glob("failed-*")
    return caught.value, left


def reproduce(folder):
    command = [sys.executable, folder / "reproduce.py"]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def whole_text(error):
    return "\n".join([str(error), *getattr(error, "__notes__", ())])


STEPS = [
    (FailsAfterOne(), "Clamp", "test-fails-after-one"),
    (Fails, "Fails", "Fails"),
    (ChecksBadly, "ChecksBadly", "ChecksBadly"),
]


@pytest.mark.parametrize(("step", "rule", "name"), STEPS)
@pytest.mark.parametrize("in_place", [False, True])
def test_the_error_names_pass_rule_site_and_source_line(program, tmp_path, step, rule, name, in_place):
    own = program.clone()
    error, _ = fail(own, step, tmp_path, GraphwrightError, in_place)
    text = whole_text(error)
    assert f"rule {rule}" in text
    assert f"pass '{name}'" in text
    assert "%relu" in text
    assert "test_failure.py:" in text


@pytest.mark.parametrize("step", [FailsAfterOne(after=0), Fails, doubles])
def test_the_folder_fails_alone_in_the_same_way(program, tmp_path, step):
    error, folder = fail(program, step, tmp_path)
    done = reproduce(folder)
    assert done.returncode == 1
    assert str(error).splitlines()[0] in done.stderr
    assert str(error).splitlines()[0] in (folder / "error.txt").read_text()


def test_a_mismatch_is_reproduced_with_the_same_check(program, tmp_path):
    error, folder = fail(program, doubles, tmp_path, validate=False)
    assert isinstance(error, MismatchError)
    assert "Numerics()" in (folder / "reproduce.py").read_text()


def test_a_pass_defined_inside_a_function_says_how_to_reproduce_it(program, tmp_path):
    def inner(program, rewriter):
        raise RuntimeError("inner")

    _, folder = fail(program, inner, tmp_path)
    done = reproduce(folder)
    assert done.returncode == 1
    assert "register it by name" in done.stderr


def test_what_ran_before_the_failure_is_in_the_trace(program, tmp_path):
    with pytest.raises(PassError):
        Pipeline(["canonicalize", FailsAfterOne()]).run(program, [DumpDir(tmp_path)])
    assert [p["name"] for p in json.loads((tmp_path / "trace.json").read_text())["passes"]] == ["canonicalize"]
    assert (tmp_path / "index.html").exists()
    Pipeline("canonicalize").run(program, [DumpDir(tmp_path)])
    assert not list(tmp_path.glob("failed-*"))
