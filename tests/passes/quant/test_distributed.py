"""Two processes on a CPU find the codes that one finds."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = """
import sys
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM
import graphwright as gw
from graphwright.passes.quant.calibrate import Calibration, quantize
from graphwright.passes.quant.options import Options
from graphwright.passes.quant.sites import find_sites

torch.set_num_threads(1)
if len(sys.argv) > 2:
    store = f"file://{sys.argv[1]}/store"
    dist.init_process_group("gloo", init_method=store, rank=int(sys.argv[2]), world_size=2)
torch.manual_seed(0)
config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
                     num_key_value_heads=2, attn_implementation="eager")
model = LlamaForCausalLM(config).eval()
program = gw.capture(model, {"input_ids": torch.zeros(2, 8, dtype=torch.long)})
program = gw.Pipeline("canonicalize,fuse-attention").run(program, validate=False).program
options = Options(group_size=16, symmetric=False, order="act", curvature=True)
batches = [{"input_ids": torch.randint(0, 64, (2, 16))} for _ in range(3)]
found = quantize(program, find_sites(program, options), Calibration(batches))
tensors = {f"{path}/{name}": getattr(item, name) for path, item in found.items()
           for name in ("codes", "scales", "zeros", "group_index")}
out = sys.argv[1] + "/" + "-".join(["codes", *sys.argv[2:]])
save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out)
if dist.is_initialized():
    dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_find_the_same_codes(tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    processes = [subprocess.Popen([*command, *extra]) for extra in ([], ["0"], ["1"])]
    assert [process.wait(timeout=300) for process in processes] == [0, 0, 0]
    alone, first, second = (load_file(tmp_path / name) for name in ("codes", "codes-0", "codes-1"))
    assert alone.keys() == first.keys() == second.keys() and len(alone) == 7 * 4
    for name, tensor in alone.items():
        assert torch.equal(tensor, first[name]) and torch.equal(tensor, second[name]), name
