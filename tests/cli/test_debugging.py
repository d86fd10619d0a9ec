"""Commands for debugging: bisect, explain, diff, view."""

import json
import subprocess
import sys

import pytest
import torch

from graphwright.ir.program import Program
from graphwright.passes.registry import register_pass
from graphwright.passes.trace import Trace

aten = torch.ops.aten


def replace_each(program, rewriter, old, new, rule, wrong=None):
    """Replace each call of `old`; the one at position `wrong` by a call of relu."""
    for i, node in enumerate([node for node in program.nodes if node.target is old]):
        with rewriter.site(rule, [node]) as edit:
            target = aten.relu.default if i == wrong else new
            edit.replace(node, edit.call(target, node.args[0]))


@register_pass("test-respell-gelu", replace=True)
def respell(program, rewriter):
    replace_each(program, rewriter, aten.gelu.default, aten.gelu.default, "Respell")


@register_pass("test-break-gelu", replace=True)
def break_second(program, rewriter):
    replace_each(program, rewriter, aten.gelu.default, aten.gelu.default, "BreakSecond", wrong=1)


def run_alone(script):
    return subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=script.parent)


def test_bisect_finds_the_bad_rewrite_and_its_reproducer_fails_alone(run, program_folder, tmp_path):
    pipeline = "canonicalize,test-respell-gelu,test-break-gelu"
    folder = tmp_path / "out"
    status, found, _ = run("bisect", program_folder, "-p", pipeline, "-o", folder, "--json")
    assert status == 1
    assert (found["pass"], found["rule"]) == ("test-break-gelu", "BreakSecond")
    assert found["site"].startswith("encoder.layer.1")
    assert "+ %relu" in found["hunk"]
    done = run_alone(folder / "reproduce.py")
    assert done.returncode == 1
    assert "largest difference" in done.stdout
    assert "Traceback" not in done.stderr
    assert "+ %relu" in (folder / "hunk.txt").read_text()
    assert len(Program.load(folder / "before").nodes) == 3


def test_bisect_prints_the_hunk(run, program_folder, tmp_path):
    status, out, _ = run("bisect", program_folder, "-p", "test-break-gelu", "-o", tmp_path / "out")
    assert status == 1
    assert "- %gelu" in out
    assert "first value that differs" in out


def test_bisect_of_a_right_pipeline_is_status_0(run, program_folder, tmp_path):
    status, found, _ = run("bisect", program_folder, "-o", tmp_path / "out", "--json")
    assert (status, found) == (0, {"found": False})
    assert not (tmp_path / "out").exists()


def test_bisect_says_that_no_rewrite_is_to_blame_for_a_raw_edit(run, program_folder, tmp_path):
    @register_pass("test-raw-edit", replace=True)
    def raw(program, rewriter):
        next(node for node in program.nodes if node.target is aten.gelu.default).target = aten.relu.default
        program.touch()

    status, _, err = run("bisect", program_folder, "-p", "test-respell-gelu,test-raw-edit", "-o", tmp_path / "out")
    assert status == 1
    assert "no recorded rewrite" in err


@pytest.fixture(scope="module")
def dump(program_folder, tmp_path_factory):
    from graphwright.cli import main

    folder = tmp_path_factory.mktemp("dump")
    with pytest.raises(SystemExit) as leaving:
        main(["optimize", str(program_folder), "--dump", str(folder)])
    assert leaving.value.code == 0
    return folder


def test_view_writes_each_form(run, dump, tmp_path):
    assert run("view", dump, "-o", tmp_path / "page.html")[0] == 0
    assert (tmp_path / "page.html").read_text() == (dump / "index.html").read_text()
    assert run("view", dump / "trace.json", "--to", "model-explorer", "-o", tmp_path / "graphs.json")[0] == 0
    assert json.loads((tmp_path / "graphs.json").read_text())["graphs"]
    count = sum(len(record.rewrites) for record in Trace.load(dump / "trace.json").records)
    assert run("view", dump, "--to", "dot", "--rewrite", count, "-o", tmp_path / "site.dot")[0] == 0
    assert "scaled_dot_product_attention" in (tmp_path / "site.dot").read_text()


def test_view_refuses_a_rewrite_that_is_not_there(run, dump, tmp_path):
    status, _, err = run("view", dump, "--to", "dot", "--rewrite", 9999, "-o", tmp_path / "site.dot")
    assert status == 1
    assert "no rewrite 9999" in err
    assert not (tmp_path / "site.dot").exists()


def test_explain_goes_through_the_default_passes(run, program_folder):
    status, found, _ = run("explain", program_folder, "--json")
    assert status == 0
    assert [each["pass"] for each in found] == ["canonicalize", "fuse-attention"]
    assert len(found[1]["rewrites"]) == 2


def test_explain_for_a_target_says_what_stays_unsupported(run, program_folder, tmp_path, monkeypatch):
    status, found, _ = run("explain", program_folder, "--target", "onnx", "--json")
    assert status == 0
    assert found["supported"]
    (tmp_path / "hermite_polynomials.py").write_text(
        "import torch\n\nclass Hermite(torch.nn.Module):\n"
        "    def forward(self, x):\n        return torch.special.hermite_polynomial_h(x, 3)\n"
    )
    monkeypatch.chdir(tmp_path)
    status, out, _ = run("explain", "hermite_polynomials:Hermite", "--target", "onnx", "-i", "x=f32[4,3]")
    assert status == 1
    assert "special_hermite_polynomial_h" in out
    assert "hermite_polynomials.py:5" in out


@pytest.fixture(scope="module")
def artifacts(program_folder, tmp_path_factory):
    """Folders of the same program lowered to ONNX with and without an Attention operator."""
    import graphwright

    folder = tmp_path_factory.mktemp("artifacts")
    program = graphwright.Pipeline().run(Program.load(program_folder)).program
    program.save(folder / "program")
    for opset in (20, 23):
        graphwright.target(f"onnx{{opset={opset}}}").lower(program).save(folder / str(opset))
    return folder


def test_diff_of_onnx_files_is_by_structure(run, artifacts, tmp_path):
    import onnx_ir

    model = onnx_ir.load(artifacts / "23" / "model.onnx")
    for i, node in enumerate(model.graph):
        node.name = f"operator_{i}"
        for value in node.outputs:
            if value not in model.graph.outputs:
                value.name = f"value_{i}"
    onnx_ir.save(model, tmp_path / "renamed.onnx")
    status, found, _ = run("diff", artifacts / "23" / "model.onnx", tmp_path / "renamed.onnx", "--json")
    assert found["ops"] == {}
    status, found, _ = run("diff", artifacts / "23" / "model.onnx", artifacts / "20", "--json")
    assert status == 1
    assert found["ops"]["Attention"] == -2
    assert found["ops"]["Softmax"] == 2
    assert run("diff", artifacts / "23", artifacts / "23" / "model.onnx")[0] == 0


def test_diff_of_onnx_files_sees_a_changed_constant(run, artifacts, tmp_path):
    import onnx_ir

    model = onnx_ir.load(artifacts / "20" / "model.onnx")
    node = next(node for node in model.graph if node.op_type == "Softmax")
    node.attributes["axis"] = onnx_ir.AttrInt64("axis", 1)
    onnx_ir.save(model, tmp_path / "other.onnx")
    status, out, _ = run("diff", artifacts / "20", tmp_path / "other.onnx")
    assert status == 1
    assert "axis=-1" in out
    assert "axis=1" in out


def test_diff_of_a_program_with_its_artifact_shows_what_each_node_became(run, artifacts):
    status, out, _ = run("diff", artifacts / "program", artifacts / "23")
    assert status == 0
    assert "== lower to onnx" in out
    assert "@@ linear" in out
    assert "Attention(" in out
    status, found, _ = run("diff", artifacts / "program", artifacts / "23", "--json")
    assert found["ops"]["Attention"] == 2
    assert found["ops"]["scaled_dot_product_attention"] == -2


def test_diff_refuses_what_cannot_be_compared(run, artifacts, tmp_path):
    assert run("diff", artifacts / "23", artifacts / "program")[0] == 2
    (tmp_path / "damaged.onnx").write_bytes((artifacts / "23" / "model.onnx").read_bytes()[:5000])
    status, _, err = run("diff", artifacts / "23", tmp_path / "damaged.onnx")
    assert status == 1
    assert "damaged.onnx" in err
    assert "Traceback" not in err
