"""Experts in GPTQ files: one linear each there, one tensor for all in the model."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MixtralConfig, MixtralForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

import graphwright as gw
from graphwright.frontends.gptq.load import load_gptq, read_gptq
from graphwright.frontends.gptq.save import save_gptq
from graphwright.ir.errors import FileFormatError
from graphwright.ir.packed import PackedWeight, pack_codes
from graphwright.passes.quant.pack import packed_weights
from graphwright.passes.quant.rtn import QuantizeRtn

EXPERTS = 4
IDS = torch.arange(24).reshape(2, 12)
SIZES = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
    "num_experts_per_tok": 2, "dtype": "float32",
}  # fmt: skip


def mixtral():
    torch.manual_seed(0)
    return MixtralForCausalLM(MixtralConfig(**SIZES, intermediate_size=64, num_local_experts=EXPERTS)).eval()


def qwen():
    torch.manual_seed(0)
    config = Qwen3MoeConfig(**SIZES, num_experts=EXPERTS, moe_intermediate_size=64, intermediate_size=64)
    return Qwen3MoeForCausalLM(config).eval()


def quantize(model, asymmetric):
    """Random codes for the experts of each layer; the model gets the weights that they stand for."""
    weights = {}
    for path, parameter in model.named_parameters():
        if ".experts." in path:
            rows, inputs = parameter.shape[0] * parameter.shape[1], parameter.shape[2]
            codes, sizes = torch.randint(0, 16, (rows, inputs)), (rows, inputs // 16)
            zeros = torch.randint(0, 16, sizes, dtype=torch.uint8) if asymmetric else None
            weights[path] = PackedWeight(
                pack_codes(codes, 4), torch.rand(sizes).half() / 16, zeros, None, 4, 16, inputs
            )
            parameter.data = weights[path].dequantize().view(parameter.shape)
    return weights


@pytest.mark.parametrize("make", [mixtral, qwen])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_experts_come_back_bit_for_bit(make, asymmetric, tmp_path):
    model = make()
    weights = quantize(model, asymmetric)
    folder = save_gptq(model, tmp_path / "model", weights)
    names = set(load_file(folder / "model.safetensors"))
    assert f"model.layers.0.mlp.experts.{EXPERTS - 1}.up_proj.qweight" in names
    assert not any(name.endswith("gate_up_proj") for name in names)
    first = read_gptq(folder)["model.layers.0.mlp.experts.1.gate_proj"]
    whole = weights["model.layers.0.mlp.experts.gate_up_proj"]
    assert torch.equal(first.dequantize(), whole.dequantize()[128:192])
    loaded = load_gptq(folder)
    for name, wanted in weights.items():
        parent, _, leaf = name.rpartition(".")
        assert torch.equal(getattr(loaded.get_submodule(parent), leaf).flatten(0, 1), wanted.dequantize())
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    again = save_gptq(loaded, tmp_path / "again")
    wanted, found = (load_file(place / "model.safetensors") for place in (folder, again))
    assert wanted.keys() == found.keys() and all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_weights_follow_the_dtype_of_the_model(tmp_path):
    model = qwen()
    loaded = load_gptq(save_gptq(model, tmp_path / "model", quantize(model, False))).to(torch.bfloat16)
    experts = loaded.model.layers[0].mlp.experts
    assert experts.down_proj.dtype == torch.bfloat16 and experts.packed_down_proj.scales.dtype == torch.float16
    assert loaded(IDS).logits.isfinite().all()


def test_older_names_are_read(tmp_path):
    model = mixtral()
    folder = save_gptq(model, tmp_path / "model", quantize(model, True))
    tensors = load_file(folder / "model.safetensors")
    older = {"mlp": "block_sparse_moe", "gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
    named = {".".join(older.get(part, part) for part in name.split(".")): value for name, value in tensors.items()}
    assert named.keys() != tensors.keys()
    save_file(named, folder / "model.safetensors", {"format": "pt"})
    assert torch.equal(load_gptq(folder)(IDS).logits, model(IDS).logits)


def test_a_missing_expert_is_named(tmp_path):
    model = qwen()
    folder = save_gptq(model, tmp_path / "model", quantize(model, True))
    tensors = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if ".experts.2.up_proj." not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(FileFormatError, match=r"experts\.2\.up_proj"):
        load_gptq(folder)


def test_a_quantized_program_becomes_a_checkpoint(tmp_path):
    model = qwen()
    program = gw.capture(model, {"input_ids": torch.zeros(2, 8, dtype=torch.long)})
    quantized = gw.Pipeline(["canonicalize", QuantizeRtn(group_size=16)]).run(program, validate=False).program
    weights = packed_weights(quantized)
    assert {path for path in weights if ".experts." in path} == {
        f"model.layers.0.mlp.experts.{name}" for name in ("gate_up_proj", "down_proj")
    }
    loaded = load_gptq(save_gptq(model, tmp_path / "model", weights))
    wanted, found = quantized.run(input_ids=IDS)["logits"], loaded(IDS).logits
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)  # products of groups sum in another order
