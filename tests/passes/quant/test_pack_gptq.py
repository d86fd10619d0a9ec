"""`pack-gptq`: codes of a checkpoint or of a work folder in the place of linears, by the name of the pass."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import graphwright as gw
from graphwright.frontends.gptq.save import save_gptq
from graphwright.ir.errors import PassError
from graphwright.passes.quant.calibrate import Calibration
from graphwright.passes.quant.gptq import QuantizeGptq
from graphwright.passes.quant.pack import packed_weights
from graphwright.passes.quant.rtn import QuantizeRtn


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "vocab_size": 64}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)).eval()


@pytest.fixture(scope="module")
def program(model):
    program = gw.capture(model, {"input_ids": torch.zeros(2, 8, dtype=torch.long)})
    return gw.Pipeline("canonicalize").run(program, validate=False).program


def run(pipeline, program):
    return gw.Pipeline(pipeline).run(program.clone(), validate=False).program


def test_a_checkpoint(model, program, tmp_path):
    packed = run([QuantizeRtn(group_size=32, symmetric=False)], program)
    save_gptq(model, tmp_path / "out", packed_weights(packed))
    again = run(f"pack-gptq{{folder='{tmp_path}/out'}}", program)
    ids = torch.arange(12).reshape(1, 12)
    assert torch.equal(again.run(input_ids=ids)["logits"], packed.run(input_ids=ids)["logits"])
    assert not any("q_proj" in name and value.dtype == torch.float32 for name, value in again.state.items())


def test_a_work_folder(program, tmp_path):
    batches = [{"input_ids": torch.randint(0, 64, (2, 16))} for _ in range(2)]
    pass_ = QuantizeGptq(group_size=32, rounds=1, calibration=Calibration(batches), work=str(tmp_path), show=True)
    packed, again = run([pass_], program), run(f"pack-gptq{{folder='{tmp_path}'}}", program)
    ids = torch.arange(12).reshape(1, 12)
    assert torch.equal(again.run(input_ids=ids)["logits"], packed.run(input_ids=ids)["logits"])


def test_codes_of_another_model_are_refused(model, program, tmp_path):
    weights = packed_weights(run([QuantizeRtn(group_size=32)], program))
    save_gptq(model, tmp_path / "out", weights)
    other = torch.nn.Sequential(torch.nn.Linear(8, 8)).eval()
    small = gw.Pipeline("canonicalize").run(gw.capture(other, (torch.zeros(2, 8),)), validate=False).program
    with pytest.raises(PassError, match="7 of which"):
        run(f"pack-gptq{{folder='{tmp_path}/out'}}", small)
    with pytest.raises(PassError, match="no codes"):
        run("pack-gptq", program)
