"""`graphwright export` by task and precision, and `verify` of what it wrote."""

import json


def test_a_task_picks_the_class(run, bert_folder, tmp_path):
    status, found, _ = run(
        "export", bert_folder, tmp_path / "out", "--task", "text-classification", "--no-verify", "--json"
    )
    assert status == 0 and found["task"] == "text-classification" and found["unsupported"] == []
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]


def test_export_and_verify_parts(run, bert_folder, tmp_path):
    status, found, _ = run("export", bert_folder, tmp_path / "out", "--target", "onnx{opset=21}", "--json")
    assert status == 0 and found["ok"] and {row["part"] for row in found["rows"]} == {"model"}
    status, found, _ = run("verify", bert_folder, tmp_path / "out", "--json")
    assert status == 0 and found["ok"]
    assert {"left padding", "scattered padding"} <= {row["case"] for row in found["rows"]}


def test_precision(run, bert_folder, tmp_path):
    status, found, _ = run("export", bert_folder, tmp_path / "out", "--dtype", "float16", "--json")
    assert status == 0 and found["target"] == "onnx{dtype=float16}"
    assert 0 < found["accuracy"]["model"]["errors"][0]["relative"] < found["accuracy"]["model"]["limit"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["details"]["accuracy"] == found["accuracy"]
    status, _, err = run("export", bert_folder, tmp_path / "out", "--target", "eager", "--dialect", "ort")
    assert status == 2 and "no option 'dialect'" in " ".join(err.split())


def test_dry_run_writes_nothing(run, bert_folder, tmp_path):
    status, found, _ = run("export", bert_folder, "--dry-run", "--json")
    assert status == 0 and found["supported"] and found["calls"] > 50
    assert not list(tmp_path.iterdir())


def test_generation_options(run, tmp_path):
    """The dialect and the last logits of a decoder; `verify` takes the task from the folder."""
    import transformers

    config = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=30, bos_token_id=1, eos_token_id=2)
    transformers.GPT2LMHeadModel(config).eval().save_pretrained(tmp_path / "model")
    options = ("--task", "text-generation-with-past", "--dialect", "ort", "--last-logits")
    status, found, _ = run("export", tmp_path / "model", tmp_path / "out", *options, "--json")
    assert status == 0 and found["target"] == "onnx{dialect=ort}"
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["details"]["last logits"] and manifest["parts"]["model"]["in_place"]
    status, found, _ = run("verify", tmp_path / "model", tmp_path / "out", "--json")
    assert status == 0 and found["ok"]
