"""`graphwright quantize`: a checkpoint or a program from a model folder and a text."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

import graphwright as gw
from graphwright.cli.app import app
from graphwright.cli.calibration import token_batches
from graphwright.ir.errors import FileFormatError, InputError

WORDS = [f"word{i}" for i in range(64)]
SIZES = ["--group-size", "32", "--samples", "4", "--length", "16"]


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 64}
    config = LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2, dtype="float32")
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="word0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text(" ".join(WORDS * 4))
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, ["quantize", *map(str, arguments)])


def test_a_checkpoint_is_written_and_loads(folder):
    result = run(folder / "model", folder / "out", "--calibration", folder / "text.txt", *SIZES, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads((folder / "out" / "quantization.json").read_text())
    assert len(report["rows"]) == 7 and 0 < report["error"] < 0.3
    assert (folder / "out" / "tokenizer.json").exists()
    loaded, ids = gw.load_gptq(folder / "out"), torch.arange(12).reshape(1, 12)
    original = LlamaForCausalLM.from_pretrained(folder / "model").eval()
    with torch.no_grad():
        expected, actual = original(ids).logits, loaded(ids).logits
    assert 0 < (expected - actual).norm() / expected.norm() < 0.2
    assert sorted(path.name for path in folder.iterdir()) == ["model", "out", "text.txt"], "no work folder is left"


def test_a_program_is_written_by_rounding(folder):
    result = run(folder / "model", folder / "out", "--method", "rtn", "--format", "program", "--asymmetric", *SIZES)
    assert result.exit_code == 0, result.output
    program = gw.Program.load(folder / "out")
    assert sum(node.target is torch.ops.graphwright.packed_linear.default for node in program.graph.nodes) == 7


def test_a_program_is_not_written_as_a_checkpoint(folder):
    model = LlamaForCausalLM.from_pretrained(folder / "model").eval()
    gw.capture(model, {"input_ids": torch.arange(8).reshape(2, 4)}).save(folder / "program")
    result = run(folder / "program", folder / "out", "--method", "rtn", *SIZES)
    assert result.exit_code == 2 and "--format" in result.output
    assert not (folder / "out").exists()


def test_what_is_missing_is_said(folder):
    assert "needs --calibration" in run(folder / "model", folder / "out").output
    assert run(folder / "model", folder / "model", "--method", "rtn").exit_code == 2
    assert not (folder / "out").exists()


def test_calibration_text(folder):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "model")
    lines = folder / "text.jsonl"
    lines.write_text("\n".join(json.dumps({"text": word}) for word in WORDS))
    batches = token_batches(lines, tokenizer, samples=3, length=16, batch=2)
    assert [batch["input_ids"].shape for batch in batches] == [(2, 16), (1, 16)]
    assert batches[0]["input_ids"][0].tolist() == list(range(16)), "rows are spread from the start"
    assert batches[1]["input_ids"][0].tolist() == list(range(48, 64)), "to the end"
    with pytest.raises(InputError, match="64 tokens"):
        token_batches(lines, tokenizer, samples=1, length=65)
    lines.write_text('{"text": "word1"}\n{"words": 1}')
    with pytest.raises(FileFormatError, match="jsonl:2"):
        token_batches(lines, tokenizer, samples=1, length=1)


TWO_GPUS = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two GPUs")


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=TWO_GPUS)])
def test_processes_of_torchrun_write_what_one_writes(folder, device):
    """With gloo on a CPU, with NCCL on GPUs."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "graphwright", "quantize"]
    options = ["--calibration", folder / "text.txt", *SIZES, "--samples", "16", "--curvature", "--device", device]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, folder / "model", folder / "two", *options], check=True, timeout=300, env=environment)
    assert run(folder / "model", folder / "one", *options).exit_code == 0
    one, two = (load_file(folder / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_a_device_that_is_not_there_is_said(folder):
    result = run(folder / "model", folder / "out", "--method", "rtn", "--device", "abacus", *SIZES)
    assert result.exit_code == 2 and "abacus" in result.output
