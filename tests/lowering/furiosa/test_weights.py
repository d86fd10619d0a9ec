"""Packed and padded weights for Furiosa."""

from __future__ import annotations

import pytest
import torch

import graphwright as gw
from graphwright.ir.errors import GraphwrightError
from graphwright.ir.node import op_name
from graphwright.ir.packed import pack_codes
from graphwright.lowering.artifact import load_artifact
from graphwright.lowering.compare import compare
from graphwright.lowering.furiosa.target import FuriosaTarget


class Packed(torch.nn.Module):
    """A packed linear of random codes."""

    def __init__(self, bits: int, asymmetric: bool, scattered: bool) -> None:
        super().__init__()
        self.bits, outputs, inputs, groups = bits, 24, 96, 3
        self.register_buffer("codes", pack_codes(torch.randint(0, 2**bits, (outputs, inputs)), bits))
        self.register_buffer("scales", torch.rand(outputs, groups).half())
        zeros = torch.randint(0, 2**bits, (outputs, groups), dtype=torch.uint8)
        self.register_buffer("zeros", zeros if asymmetric else None)
        self.register_buffer("group", (torch.randperm(inputs) % groups).int() if scattered else None)
        self.register_buffer("bias", torch.randn(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = (self.codes, self.scales, self.zeros, self.group, self.bias)
        return torch.ops.graphwright.packed_linear(x, *parts, self.bits, 32)


@pytest.mark.parametrize(
    ("bits", "asymmetric", "scattered"),
    [(2, True, False), (3, False, False), (4, False, True), (4, True, False), (4, True, True), (8, True, False)],
)
def test_packed_linears_are_written_out(bits, asymmetric, scattered, tmp_path):
    torch.manual_seed(bits)
    model = Packed(bits, asymmetric, scattered).eval()
    artifact = FuriosaTarget().lower(gw.capture(model, {"x": torch.randn(2, 3, 96)}))
    (part,) = artifact.parts.values()
    assert part.capability()["ops"] == {"add.Tensor": 1, "mm": 1, "view": 2}
    # Codes, zeros and scales are exact in float32; only the order of sums may differ.
    assert compare(model, artifact, rtol=1e-5).ok
    assert compare(model, load_artifact(artifact.save(tmp_path / "out")), rtol=1e-5).ok


class Block(torch.nn.Module):
    """Widths of 24, 48 and 7: none is a power of two."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up = torch.nn.LayerNorm(24), torch.nn.Linear(24, 48)
        self.down, self.head = torch.nn.Linear(48, 24, bias=False), torch.nn.Linear(24, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))
        return self.head(x)


def test_padded_linears():
    torch.manual_seed(0)
    model = Block().eval()
    program = gw.capture(model, {"x": torch.randn(2, 4, 24)})
    plain, padded = (FuriosaTarget(pad=pad).lower(program) for pad in ("", "pow2"))
    assert compare(model, plain).ok and compare(model, padded).ok
    (part,) = padded.parts.values()
    matrices = [node.args[1].meta["val"].shape for node in part.program.graph.nodes if op_name(node) == "mm"]
    assert [tuple(shape) for shape in matrices] == [(32, 64), (64, 32), (32, 8)]
    counts = part.capability()["ops"]
    # Two inputs are padded and two results cut; between `up` and `down` nothing is.
    assert counts["constant_pad_nd"] == 2 and counts["slice.Tensor"] == 2
    assert str(FuriosaTarget(pad="pow2")) == "furiosa{pad=pow2}"
    with pytest.raises(GraphwrightError, match="no pad=odd"):
        FuriosaTarget(pad="odd")


def test_sizes_that_are_powers_of_two_stay():
    model = torch.nn.Linear(16, 8).eval()
    artifact = FuriosaTarget(pad="pow2").lower(gw.capture(model, (torch.randn(2, 16),)))
    (part,) = artifact.parts.values()
    assert part.capability()["ops"] == {"add.Tensor": 1, "mm": 1}


def test_a_quantized_model_is_exported(tmp_path):
    """A Llama whose linears are packed in 4 bits: what is emitted computes what the packed program does."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 96}
    model = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=50, use_cache=False)).eval()
    packed = gw.Pipeline("canonicalize,quantize-rtn{bits=4,group_size=32}").run(gw.capture(model)).program
    assert any(op_name(node) == "graphwright.packed_linear" for node in packed.graph.nodes)
    artifact = FuriosaTarget(sizes="batch:1/sequence:16").lower(packed)
    assert compare(packed, artifact).ok
    done = gw.export(model, tmp_path / "out", "furiosa{sizes=batch:1/sequence:16}", task="text-generation")
    assert done.ok and next((tmp_path / "out").glob("**/compile.sh")).with_name("graph.pt2").exists()
