"""Packed linears in a program: the values of their codes, what leaves the state, files, undo."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import graphwright as gw
from graphwright.ir.node import bound, is_call, shape_of
from graphwright.ir.rewriter import Rewriter
from graphwright.passes.quant.codes import QuantizedLinear
from graphwright.passes.quant.pack import drop_unused, pack_linear, packed_linear, packed_weights


def quantized(outputs, inputs, bits=4, group_size=16):
    codes = torch.randint(0, 2**bits, (outputs, inputs), dtype=torch.uint8)
    scales = torch.rand(outputs, -(-inputs // group_size)).half() / 8
    return QuantizedLinear(codes, scales, None, None, bits, group_size)


@pytest.fixture
def program():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "vocab_size": 64}
    config = LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True)
    return gw.capture(LlamaForCausalLM(config).eval())


def pack_all(program):
    """Packs each linear, and puts the weight of its codes into the state of a copy of the float program."""
    packed, reference = program.clone(), program.clone()
    rewriter = Rewriter(packed)
    for node in [node for node in packed.graph.nodes if is_call(node, torch.ops.aten.linear)]:
        weight = bound(node)["weight"]
        choice = quantized(*shape_of(weight))
        twin = next(other for other in reference.graph.nodes if other.name == node.name)
        name = f"dequantized_{node.name}"
        reference.state[name] = choice.dequantize()
        with reference.graph.inserting_before(twin):
            value = reference.graph.get_attr(name)
        value.meta = dict(weight.meta)
        twin.args = (twin.args[0], value, *twin.args[2:])
        with rewriter.site("Quantize", (node,)) as edit:
            pack_linear(edit, node, choice)
    reference.touch()
    return packed, reference


def test_values_are_those_of_the_codes(program, tmp_path):
    packed, reference = pack_all(program)
    before = {name for name in program.state if name.endswith("_proj.weight")}
    assert before <= set(drop_unused(packed))
    gw.verify(packed)
    assert not before & set(packed.state) and before <= set(program.state)
    assert any(torch.is_tensor(value) and value.shape == (64, 32) for value in packed.state.values()), "embedding stays"
    inputs = {"input_ids": torch.arange(10).reshape(2, 5), "attention_mask": torch.tensor([[0, 1, 1, 1, 1], [1] * 5])}
    expected = reference.run(**inputs).logits
    torch.testing.assert_close(packed.run(**inputs).logits, expected, rtol=1e-5, atol=1e-5)
    packed.save(tmp_path / "program")
    torch.testing.assert_close(
        gw.Program.load(tmp_path / "program").run(**inputs).logits, expected, rtol=1e-5, atol=1e-5
    )
    assert packed.state_bytes() < program.state_bytes() / 2


def test_weights_are_found_by_module(program):
    packed, _ = pack_all(program)
    found = packed_weights(packed)
    assert "model.layers.0.mlp.down_proj" in found and "lm_head" in found and len(found) == 8
    assert found["model.layers.0.mlp.down_proj"].dequantize().shape == (32, 48)


def test_a_shared_weight_is_packed_once():
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(16, 16)

        def forward(self, x):
            return self.layer(self.layer(x))

    program = gw.capture(Twice().eval(), torch.ones(2, 16))
    choice = quantized(16, 16)
    for node in [node for node in program.graph.nodes if is_call(node, torch.ops.aten.linear)]:
        with Rewriter(program).site("Quantize", (node,)) as edit:
            pack_linear(edit, node, choice)
    drop_unused(program)
    assert sorted(program.state) == ["layer.bias", "layer.packed_weight", "layer.scales"]


def test_a_failed_site_leaves_the_program_as_it_was(program):
    copy = program.clone()
    node = next(node for node in copy.graph.nodes if is_call(node, torch.ops.aten.linear))
    with pytest.raises(gw.PassError, match="does not fit"), Rewriter(copy).site("Quantize", (node,)) as edit:
        pack_linear(edit, node, quantized(3, 5))
    with pytest.raises(gw.PassError), Rewriter(copy).site("Quantize", (node,)) as edit:
        pack_linear(edit, node, quantized(*shape_of(bound(node)["weight"])))
        raise ValueError("stop")
    assert set(copy.state) == set(program.state)
    assert not any(is_call(node, packed_linear) for node in copy.graph.nodes)
