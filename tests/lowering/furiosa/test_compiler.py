"""The vendor's compiler on what the target emits: needs the environment that `tools/furiosa_env.sh` makes.

Run with GRAPHWRIGHT_FURIOSA=FOLDER/bin/furiosa-python; minutes to an hour, most of it in the last two tests.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTModel,
)

import graphwright as gw
from graphwright.lowering.furiosa.ops import IMPORTABLE_ONLY, SUPPORTED
from graphwright.lowering.furiosa.target import FuriosaTarget

PYTHON = os.environ.get("GRAPHWRIGHT_FURIOSA", "")
CHECK = Path(__file__).parents[3] / "tools" / "furiosa_check.py"
SIZES = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not PYTHON, reason="GRAPHWRIGHT_FURIOSA names no Python with furiosa-torch"),
]


def check(*arguments: Any) -> tuple[int, dict[str, Any]]:
    """Exit status and report of the check."""
    done = subprocess.run([PYTHON, str(CHECK), *map(str, arguments)], capture_output=True, text=True)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def bert() -> torch.nn.Module:
    torch.manual_seed(0)
    config = BertConfig(**SIZES, vocab_size=64, max_position_embeddings=32)
    return scaled(BertModel(config, add_pooling_layer=False))


def gpt2() -> torch.nn.Module:
    return scaled(GPT2LMHeadModel(GPT2Config(n_embd=64, n_head=2, n_layer=1, vocab_size=64, n_positions=32)))


def llama() -> torch.nn.Module:
    return scaled(LlamaForCausalLM(LlamaConfig(**SIZES, vocab_size=64, num_key_value_heads=1)))


def vit() -> torch.nn.Module:
    return scaled(ViTModel(ViTConfig(**SIZES, image_size=32, patch_size=8), add_pooling_layer=False))


def scaled(model: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model.eval()


def emitted(model: torch.nn.Module, folder: Path, sizes: str = "batch:1/sequence:16") -> Path:
    """The graph that the target writes for a model."""
    FuriosaTarget(sizes=sizes).lower(gw.capture(model)).save(folder)
    return next(folder.glob("*/graph.pt2"))


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Path:
    return emitted(bert(), tmp_path_factory.mktemp("bert") / "artifact")


def test_the_table_is_what_the_compiler_says():
    _, table = check("--ops")
    supported, importable = ({name.removeprefix("aten::") for name in table[k]} for k in ("supported", "importable"))
    assert supported == SUPPORTED and importable == SUPPORTED | IMPORTABLE_ONLY


class Flat(torch.nn.Module):
    """Tensors in, a tensor out: the classes of transformers are not known in the compiler's environment."""

    def __init__(self) -> None:
        super().__init__()
        self.model = bert()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def test_bert_as_exported_is_refused(tmp_path):
    """By the vendor's preprocessing as torch.export leaves it; decomposed into core ATen, by the compiler."""
    ids = torch.arange(16).unsqueeze(0)
    exported = torch.export.export(Flat().eval(), (ids, torch.ones_like(ids)), strict=False)
    torch.export.save(exported, tmp_path / "exported.pt2")
    torch.export.save(exported.run_decompositions(), tmp_path / "core.pt2")
    status, report = check(tmp_path / "exported.pt2", "--level", "lower")
    assert status == 1 and "Cannot view a tensor" in report["preprocess"]["error"]
    status, report = check(tmp_path / "core.pt2", "--level", "lower")
    assert status == 1 and report["import"]["ok"]
    assert "not an operator that is yet supported" in report["lower"]["error"]


def test_the_emitted_graph_is_taken_as_it_is(graph, tmp_path):
    """Preprocessing changes no call, and the compiler's torch computes what the model does."""
    ids, mask = torch.randint(0, 64, (1, 16)), torch.ones(1, 16, dtype=torch.long)
    mask[:, 12:] = 0
    np.savez(tmp_path / "in.npz", input_ids=ids.int().numpy(), attention_mask=mask.int().numpy())
    status, report = check(graph, "--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out.npz")
    assert status == 0 and report["import"]["ok"]
    assert report["calls"] == report["calls after preprocessing"]
    with torch.no_grad():
        expected = bert()(input_ids=ids, attention_mask=mask).last_hidden_state[:, :12]
    found = torch.from_numpy(np.load(tmp_path / "out.npz")["output_0"])[:, :12]
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)  # some roundings of values up to 10


@pytest.mark.parametrize("model", [bert, gpt2, llama, vit])
def test_every_call_compiles_alone(model, tmp_path):
    graph = emitted(model(), tmp_path / "artifact", "batch:1" if model is vit else "batch:1/sequence:16")
    status, report = check(graph, "--level", "ops")
    assert report["failing calls"] == [] and status == 0
    assert set(report["calls compiled alone"]) <= {"OK", "SKIP"}


def test_bert_compiles_to_a_binary(graph, tmp_path):
    status, report = check(graph, "--level", "compile", "--edf", tmp_path / "graph.edf")
    assert status == 0 and report["lower"]["ok"] and report["compile"]["ok"]
    assert (tmp_path / "graph.edf").stat().st_size == report["edf bytes"] > 10_000
