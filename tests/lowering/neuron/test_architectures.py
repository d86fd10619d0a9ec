"""Architectures on XLA's CPU client against the originals: several sizes, padding on all sides, packed weights."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("jax")
sys.path.insert(0, str(Path(__file__).parent))

from architectures import ALL, DECODERS, ENCODERS, build

import graphwright as gw
from graphwright.ir.program import Program
from graphwright.lowering.interface import Interface

DEFAULT = ("bert", "llama", "t5", "vit")


def sizes_for(program: Program) -> str:
    """A bucket that is larger than what was captured, in each dimension that can be padded."""
    dims = Interface.of(program).dims
    sizes = {"batch": 3} | {
        name: 2 * dims[name].example + 1 for name in ("sequence", "decoder_sequence") if name in dims
    }
    return "/".join(f"{name}:{size}" for name, size in sizes.items() if name in dims)


def marked(names: list[str], default: tuple[str, ...]) -> list[object]:
    return [pytest.param(name, marks=() if name in default else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", marked(list(ALL), DEFAULT))
def test_computes_what_the_model_computes(name):
    """The default tolerance of float32; lengths 1, as captured, and longer, all in one bucket, which pads them."""
    model = build(name)
    program = gw.capture(model)
    artifact = gw.target(f"neuron{{sizes={sizes_for(program)},device=trn2}}").lower(program)
    result = gw.compare(model, artifact)
    cases = {row.case for row in result.rows}
    assert not any(row.skipped for row in result.rows)
    if name in ENCODERS | DECODERS:
        lengths = {int(case.removeprefix("sequence=")) for case in cases if case.startswith("sequence=")}
        assert 1 in lengths and max(lengths) > Interface.of(program).dims["sequence"].example
        assert {"right padding", "left padding", "scattered padding"} <= cases


@pytest.mark.parametrize("bits", [4, pytest.param(3, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", marked(["llama", "bert", "vit"], ("llama",)))
def test_packed_weights(name, bits):
    """Codes stay packed in the module; they are exact, so that what differs is the order of sums in float32."""
    program = gw.capture(build(name))
    packed = gw.Pipeline(f"canonicalize,quantize-rtn{{bits={bits},group_size=16}}").run(program).program
    linears = [node for node in packed.graph.nodes if "packed_linear" in str(node.target)]
    artifact = gw.target(f"neuron{{sizes={sizes_for(program)}}}").lower(packed)
    assert gw.compare(packed, artifact).ok
    part = next(iter(artifact.parts.values()))
    stored = [weight for weight in part.emitted.weights.values() if weight.dtype is torch.uint8]
    assert len(stored) >= len(linears) > 0
