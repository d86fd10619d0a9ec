"""GPTQ checkpoints as folders: saved, loaded, captured; what is wrong with a folder is said."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import graphwright as gw
from graphwright.frontends.gptq.config import GptqConfig, is_gptq
from graphwright.frontends.gptq.load import load_gptq, read_gptq
from graphwright.frontends.gptq.module import PackedLinear
from graphwright.frontends.gptq.save import save_gptq
from graphwright.ir.errors import FileFormatError, InputError
from graphwright.ir.packed import PackedWeight, pack_codes

INPUTS = {"input_ids": torch.arange(10).reshape(2, 5), "attention_mask": torch.tensor([[0, 1, 1, 1, 1], [1] * 5])}


def quantize(model, kinds, bits=4, asymmetric=True, group_size=16):
    """Random codes for each layer of `kinds`; the model gets the weights that they stand for."""
    weights = {}
    for path, layer in model.named_modules():
        if type(layer).__name__ in kinds and "lm_head" not in path:
            transposed = type(layer).__name__ == "Conv1D"
            outputs, inputs = layer.weight.shape[::-1] if transposed else layer.weight.shape
            codes, sizes = torch.randint(0, 2**bits, (outputs, inputs)), (outputs, inputs // group_size)
            zeros = torch.randint(0, 2**bits, sizes, dtype=torch.uint8) if asymmetric else None
            scales = torch.rand(sizes).half() / 2**bits
            weights[path] = PackedWeight(pack_codes(codes, bits), scales, zeros, None, bits, group_size, inputs)
            dense = weights[path].dequantize()
            layer.weight.data = dense.t().contiguous() if transposed else dense
    return weights


def llama(**options):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 64}
    config = LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2, dtype="float32", **options)
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def folder(tmp_path):
    model = llama()
    return save_gptq(model, tmp_path / "model", quantize(model, ("Linear",)))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_a_saved_model_computes_the_same(tmp_path, bits, asymmetric):
    model = llama(tie_word_embeddings=asymmetric)
    weights = quantize(model, ("Linear",), bits, asymmetric)
    folder = save_gptq(model, tmp_path / "model", weights, shard_bytes=4000)
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    config = GptqConfig.read(folder)
    assert is_gptq(folder) and config.checkpoint_format == ("gptq_v2" if asymmetric else "gptq")
    loaded = load_gptq(folder)
    layers = [layer for layer in loaded.modules() if isinstance(layer, PackedLinear)]
    assert len(layers) == len(weights) == 7
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == asymmetric
    with torch.no_grad():
        torch.testing.assert_close(loaded(**INPUTS).logits, model(**INPUTS).logits, rtol=1e-5, atol=1e-5)
    again = save_gptq(loaded, tmp_path / "again")
    for path, packed in read_gptq(again).items():
        assert torch.equal(packed.weight, weights[path].weight) and torch.equal(packed.scales, weights[path].scales)


def test_a_loaded_model_is_captured_with_its_packed_linears(folder):
    loaded = load_gptq(folder)
    program = gw.capture(loaded)
    calls = [node for node in program.graph.nodes if node.target is torch.ops.graphwright.packed_linear.default]
    assert len(calls) == 7
    with torch.no_grad():
        torch.testing.assert_close(program.run(**INPUTS).logits, loaded(**INPUTS).logits, rtol=1e-5, atol=1e-5)


def test_layers_of_gpt2_are_linears_in_the_file(tmp_path):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=64, n_positions=16)).eval()
    loaded = load_gptq(save_gptq(model, tmp_path / "model", quantize(model, ("Conv1D",))))
    with torch.no_grad():
        torch.testing.assert_close(loaded(**INPUTS).logits, model(**INPUTS).logits, rtol=1e-5, atol=1e-5)


def test_stored_zeros_decide_over_the_label(tmp_path):
    """Some symmetric checkpoints store zeros as v2 does and say v1."""
    model = llama()
    weights = quantize(model, ("Linear",), asymmetric=False)
    folder = save_gptq(model, tmp_path / "model", weights, checkpoint_format="gptq_v2")
    config = folder / "quantize_config.json"
    config.write_text(config.read_text().replace("gptq_v2", "gptq"))
    assert all(packed.zeros is None for packed in read_gptq(folder).values())


def test_half_precision_keeps_the_scales(folder):
    model = load_gptq(folder, dtype=torch.bfloat16)
    assert model.model.layers[0].mlp.up_proj.scales.dtype == torch.float16
    assert model(**INPUTS).logits.dtype == torch.bfloat16
    assert model.to(torch.float32).model.layers[0].mlp.up_proj.scales.dtype == torch.float16


def damage_truncate(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def damage_rename(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.9.mlp.up_proj.qweight"] = tensors.pop("model.layers.0.mlp.up_proj.qweight")
    save_file(tensors, folder / "model.safetensors")


def damage_drop(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors")


def damage_size(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 128}))


def damage_index(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../model.safetensors"}}')


def damage_missing_shard(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')


def damage_bits(folder):
    config = folder / "quantize_config.json"
    config.write_text(config.read_text().replace('"bits": 4', '"bits": 5'))


def damage_format(folder):
    config = folder / "quantize_config.json"
    config.write_text(config.read_text().replace("gptq_v2", "marlin"))


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (damage_truncate, "cannot read the weights"),
        (damage_rename, "missing"),
        (damage_drop, "not those of its model"),
        (damage_size, "another size"),
        (damage_index, "names no files"),
        (damage_missing_shard, "cannot read the weights"),
        (damage_bits, "5 bits"),
        (damage_format, "marlin"),
    ],
)
def test_a_damaged_folder_is_refused(folder, damage, text):
    damage(folder)
    with pytest.raises(FileFormatError, match=text):
        load_gptq(folder)


def test_nothing_is_left_of_a_failed_save(tmp_path):
    model = llama()
    weights = quantize(model, ("Linear",))
    with pytest.raises(InputError, match="a zero is 0"):
        save_gptq(model, tmp_path / "model", weights, checkpoint_format="gptq")
    with pytest.raises(InputError, match="no packed weights"):
        save_gptq(model, tmp_path / "model")
    odd = PackedWeight(pack_codes(torch.zeros(4, 20), 4), torch.ones(4, 1), None, None, 4, 20, 20)
    with pytest.raises(FileFormatError, match="whole words"):
        save_gptq(model, tmp_path / "model", {"lm_head": odd})
    assert list(tmp_path.iterdir()) == []
