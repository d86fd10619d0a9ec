"""The same trace as schema-conforming JSON, Model Explorer's JSON, and Graphviz."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import torch
from torch import nn

from graphwright.ir.program import Program
from graphwright.ir.record import NodeRecord, Rewrite
from graphwright.ir.signature import Example
from graphwright.passes.instruments import DumpDir, Numerics
from graphwright.passes.misses import MissRecord
from graphwright.passes.patterns import Rule, aten
from graphwright.passes.pipeline import Pipeline
from graphwright.passes.trace import Trace
from graphwright.passes.viewer.dot import quote, to_dot

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/schema/trace.schema.json").read_text())


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        y = torch.relu(self.linear(x))
        return torch.cat([y, x[:, 1:3].to(torch.float64)], 1), y.sum() * 0.5, torch.sigmoid(y).flatten(-2)


class TwiceRelu(Rule):
    """relu(x) -> relu(relu(x)): harmless, and visible"""

    def pattern(self, x):
        return aten.relu(aten.linear(x, ..., ...))

    def rewrite(self, m, rw):
        return rw.aten.clamp_min(rw.aten.linear(m.x, *m.nodes[0].args[1:]), 0)


class ReluOfRelu(Rule):
    """never there"""

    def pattern(self, x):
        return aten.sigmoid(aten.relu(aten.relu(x)))

    def rewrite(self, m, rw):
        return m.x


@pytest.fixture(scope="module")
def dumped(tmp_path_factory):
    """The trace of a small run, and the folder that DumpDir wrote."""
    x = torch.randn(2, 4)
    program = Program.from_exported(torch.export.export(Block(), (x,)), example=Example((x,)), name="Block")
    folder = tmp_path_factory.mktemp("dump")
    steps = [TwiceRelu, ReluOfRelu, lambda program, rewriter: ["only a text"]]
    return Pipeline(steps).run(program, [Numerics(), DumpDir(folder)]).trace, folder


def test_trace_json_is_as_its_schema_says(dumped):
    _, folder = dumped
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    fields = json.loads((folder / "trace.json").read_text())
    validator = jsonschema.Draft202012Validator(SCHEMA)
    assert [error.message for error in validator.iter_errors(fields)] == []
    fields["passes"][0]["rewrites"][0]["removed"][0][3] = [["unknown tag", 1]]
    assert not validator.is_valid(fields)


def test_misses_are_data_in_the_trace(dumped):
    trace, folder = dumped
    misses = json.loads((folder / "trace.json").read_text())["passes"][1]["misses"]
    miss = misses[0]
    assert miss["rule"] == "ReluOfRelu"
    assert miss["pattern"][slice(*miss["span"])].startswith("relu(")
    assert miss["culprit"] in {node.name for node in trace.records[1].after.nodes}
    back = Trace.load(folder / "trace.json")
    assert back.records[1].misses == tuple(map(MissRecord.of, trace.records[1].misses))
    assert back.records[1].miss_lines() == trace.records[1].miss_lines()
    assert back.records[2].misses == ("only a text",)


def test_the_page_can_be_made_again_from_the_trace(dumped):
    _, folder = dumped
    assert Trace.load(folder / "trace.json").to_html() == (folder / "index.html").read_text()


def test_sources_hold_the_lines_around_those_that_made_nodes(dumped):
    trace, _ = dumped
    file, line = trace.sources.places[next(n.source for n in trace.records[0].before.nodes if "cat" in n.target)]
    assert trace.sources.files[file] == Path(__file__).name
    assert "torch.cat" in trace.sources.lines[file][line]
    assert len(trace.sources.lines[file]) > 8


def test_model_explorer_graphs(dumped):
    trace, _ = dumped
    collection = json.loads(json.dumps(trace.to_model_explorer()))
    assert [graph["id"] for graph in collection["graphs"]] == ["0 Block", "1 after TwiceRelu"]
    for graph in collection["graphs"]:
        ids = [node["id"] for node in graph["nodes"]]
        assert len(set(ids)) == len(ids)
        for node in graph["nodes"]:
            assert {edge["sourceNodeId"] for edge in node["incomingEdges"]} <= set(ids)
            assert "." not in node["namespace"]
            assert node["namespace"] == "linear" or not node["label"].startswith("linear.")
            assert all(set(attribute) == {"key", "value"} for attribute in node["attrs"])
    first, second = (
        {a["value"] for node in graph["nodes"] for a in node["attrs"] if a["key"] == "diff"}
        for graph in collection["graphs"]
    )
    assert first == {"removed"}
    assert "added" in second


def test_model_explorer_graphs_of_a_pipeline_that_changed_nothing(dumped):
    trace, _ = dumped
    assert len(Trace(trace.records[1:]).to_model_explorer()["graphs"]) == 1
    assert Trace().to_model_explorer()["graphs"] == []


def test_dot_of_one_site(dumped):
    trace, _ = dumped
    rewrite = trace.records[0].rewrites[0]
    text = to_dot(rewrite)
    assert text.count("subgraph") == 2
    assert text.count("{") == text.count("}")
    declared = set(re.findall(r'^ +("(?:[^"\\]|\\.)*") \[', text, re.M))
    used = {name for edge in re.findall(r'^  ("[^"]*") -> ("[^"]*")', text, re.M) for name in edge}
    assert used <= declared
    assert '"before relu" -> "after clamp_min"' in text


def test_dot_escapes_what_it_quotes():
    assert quote('a"b\\\n') == '"a\\"b\\\\\\n"'
    evil = NodeRecord('x"]; evil [', "call_function", "aten.relu.default", (), (), "", "", "")
    text = to_dot(Rewrite("p", 'r"', "", "", (evil,), (), ()))
    assert not re.search(r'(?<!\\)"\]; evil', text)
