"""`graphwright tune`: a model, a metric from a module, and the program that comes out."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

import graphwright as gw
from graphwright.cli.app import app

METRIC = """
import torch
torch.manual_seed(0)
layer = torch.nn.Sequential(torch.nn.Linear(32, 16), torch.nn.Tanh(), torch.nn.Linear(16, 8)).eval()
x = torch.randn(32, 32)
expected = layer(x).detach()
def model():
    return layer
def closeness(candidate):
    return 1 - float((candidate(x) - expected).norm() / expected.norm())
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "tuned_net.py").write_text(METRIC)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, ["tune", *map(str, arguments)])


def test_a_program_within_the_bound_is_written(module):
    words = ["--metric", "tuned_net:closeness", "--max-drop", "2%", "--group-size", "16", "-i", "input=f32[4,32]"]
    result = run("tuned_net:model", *words, "--log", module / "log.jsonl", "-o", module / "out", "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["best"]["score"] >= 0.98 and facts["best"]["size"] < facts["baseline"]["size"]
    program = gw.Program.load(module / "out")
    assert any(node.target is torch.ops.graphwright.packed_linear.default for node in program.nodes)
    assert len((module / "log.jsonl").read_text().splitlines()) >= 2


def test_what_is_no_metric_is_said(module):
    assert "is no function" in run("tuned_net:model", "--metric", "tuned_net:x.shape").output
    assert "cannot be imported" in run("tuned_net:model", "--metric", "nowhere:f").output
    wrong = run("tuned_net:model", "--metric", "tuned_net:closeness", "--bits", "four", "-i", "input=f32[4,32]")
    assert wrong.exit_code == 2 and "no list of numbers" in wrong.output
