import json

import pytest
import torch

import graphwright


def test_capture_writes_a_program_that_computes_the_same(program_folder, bert_folder):
    from transformers import BertModel

    model = BertModel.from_pretrained(bert_folder, attn_implementation="eager").eval()
    tokens = torch.randint(0, 50, (3, 7))
    loaded = graphwright.Program.load(program_folder)
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.run(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state,
            model(input_ids=tokens).last_hidden_state,
        )


def test_capture_says_what_it_captured(run, bert_folder, tmp_path):
    status, facts, _ = run("capture", bert_folder, "-o", tmp_path / "out", "--json")
    assert status == 0
    assert facts["nodes"] == len(graphwright.Program.load(tmp_path / "out").nodes)
    assert {dim.split(":")[0] for dim in facts["dims"]} == {"batch", "sequence"}


def test_capture_takes_inputs_for_a_plain_module(run, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("import torch\n\ndef build():\n    return torch.nn.Linear(3, 2)\n")
    monkeypatch.chdir(tmp_path)
    status, facts, _ = run("capture", "mine:build", "-o", "out", "--input", "input=f32[4,3]", "--json")
    assert status == 0
    assert facts["weights_bytes"] == 4 * (3 * 2 + 2)


def test_optimize_fuses_attention_and_saves_the_program(run, program_folder, tmp_path):
    status, found, _ = run("optimize", program_folder, "-o", tmp_path / "out", "--numerics", "--json")
    assert status == 0
    assert [row["pass"] for row in found["passes"]] == ["canonicalize", "fuse-attention"]
    targets = [str(node.target) for node in graphwright.Program.load(tmp_path / "out").nodes]
    assert sum("scaled_dot_product_attention" in target for target in targets) == 2


def test_optimize_writes_the_trace(run, program_folder, tmp_path):
    status, out, _ = run("optimize", program_folder, "--dump", tmp_path / "trace")
    assert status == 0
    assert "scaled_dot_product_attention" in out
    json.loads((tmp_path / "trace" / "trace.json").read_text())


def test_diff_groups_the_layers(run, program_folder):
    status, out, _ = run("diff", program_folder)
    assert status == 0
    assert "layer.{0..1}.attention" in out


def test_diff_of_two_programs_is_status_1_where_they_differ(run, program_folder, tmp_path):
    assert run("optimize", program_folder, "-o", tmp_path / "out")[0] == 0
    assert run("diff", program_folder, program_folder)[0] == 0
    status, out, _ = run("diff", program_folder, tmp_path / "out")
    assert status == 1
    assert "scaled_dot_product_attention" in out


def test_a_wrong_pipeline_is_a_failure(run, program_folder):
    status, out, err = run("optimize", program_folder, "--pipeline", "fuse-atention")
    assert (status, out) == (1, "")
    assert "did you mean 'fuse-attention'?" in err


def test_explain_counts_the_matches(run, program_folder):
    status, found, _ = run("explain", program_folder, "fuse-attention", "--json")
    assert status == 0
    assert [len(each["rewrites"]) for each in found] == [2]


@pytest.mark.parametrize("target", ["eager", "onnx"])
def test_export_and_verify(run, program_folder, tmp_path, target):
    status, found, _ = run("export", program_folder, "--target", target, "-o", tmp_path / "out", "--json")
    assert status == 0
    assert found["supported"]
    status, found, _ = run("verify", program_folder, tmp_path / "out", "--json")
    assert status == 0
    assert found["ok"]


def test_a_dry_run_names_what_the_target_lacks(run, tmp_path, monkeypatch):
    (tmp_path / "hermite.py").write_text(
        "import torch\n\nclass Hermite(torch.nn.Module):\n"
        "    def forward(self, x):\n        return torch.special.hermite_polynomial_h(x, 3)\n"
    )
    monkeypatch.chdir(tmp_path)
    status, found, _ = run("export", "hermite:Hermite", "-i", "x=f32[4,3]", "--dry-run", "--json")
    assert status == 1
    assert [item["op"].split(".")[0] for item in found["unsupported"]] == ["special_hermite_polynomial_h"]


def test_verify_finds_an_artifact_of_other_weights(run, program_folder, bert_folder, tmp_path):
    from transformers import BertModel

    assert run("export", program_folder, "--target", "eager", "-o", tmp_path / "out")[0] == 0
    other = BertModel.from_pretrained(bert_folder)
    with torch.no_grad():
        other.encoder.layer[1].output.dense.weight.mul_(1.5)
    other.save_pretrained(tmp_path / "other")
    status, _, err = run("verify", tmp_path / "other", tmp_path / "out")
    assert status == 1
    assert "Traceback" not in err


def test_verify_runs_a_pipeline_with_every_check(run, program_folder):
    status, found, _ = run("verify", program_folder, "--json")
    assert status == 0
    assert found["ok"]


def test_a_truncated_program_is_a_failure(run, program_folder, tmp_path):
    for file in program_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    status, _, err = run("diff", tmp_path)
    assert status == 1
    assert "Traceback" not in err


def test_listings(run):
    status, found, _ = run("passes", "--json")
    assert status == 0
    assert {"canonicalize", "fuse-attention", "merge-linears"} <= {row["name"] for row in found}
    status, found, _ = run("targets", "--json")
    assert status == 0
    assert {"eager", "onnx"} <= {row["name"] for row in found}
    assert all(row["summary"] for row in found)
