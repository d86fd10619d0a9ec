"""Models on LiteRT's interpreter against the originals: several lengths, batch sizes and paddings."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("ai_edge_litert")

import graphwright as gw

sys.path.insert(0, str(Path(__file__).parent))
from tflite_zoo import FORMER, MORE, build

FAST = ("bert", "llama", "vit", "resnet")
MIXES_NEIGHBOURS = ("convbert",)
"""Convolutions run into the padding, in the original too: buckets must have the size of the input."""

NOT_CAPTURED = ("deberta",)
"""A size that the model reads from a tensor cannot be fixed."""

LOOSE = {"t5": 1e-4}
"""Its scores are not scaled, and hundreds here: a rounding of them is multiplied by the exponential."""

REST = sorted({*FORMER, *MORE} - {*FAST, *MIXES_NEIGHBOURS, *NOT_CAPTURED})


def sizes_of(program) -> str:
    """Three rows, and two buckets of each length."""
    names = [dim.name for dim in program.dims]
    rows = [f"{name}:3" for name in names if name == "batch"]
    return "/".join([*rows, *(f"{name}:8+16" for name in names if "sequence" in name)])


def check(name: str, options: str = "") -> None:
    """The default tolerance of float32, on all the sizes and paddings that `compare` makes."""
    model = build(name)
    program = gw.capture(model)
    sizes = sizes_of(program)
    text = ",".join(part for part in (f"sizes={sizes}" if sizes else "", options) if part)
    artifact = gw.target(f"tflite{{{text}}}" if text else "tflite").lower(program)
    assert gw.compare(model, artifact, rtol=LOOSE.get(name)).ok


@pytest.mark.parametrize("name", FAST)
def test_computes_what_the_model_computes(name: str) -> None:
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", REST)
def test_more_models_compute_what_they_should(name: str) -> None:
    check(name)


@pytest.mark.parametrize("name", MIXES_NEIGHBOURS)
def test_models_whose_positions_are_not_independent_of_padding(name: str) -> None:
    model = build(name)
    program = gw.capture(model)
    artifact = gw.target("tflite{sizes=batch:2/sequence:9}").lower(program)
    ids = torch.randint(0, 50, (2, 9))
    for mask in (torch.ones_like(ids), (torch.arange(9) < torch.tensor([[9], [5]])).long()):
        assert gw.compare(model, artifact, inputs=[{"input_ids": ids, "attention_mask": mask}]).ok


@pytest.mark.parametrize("name", ["llama", pytest.param("bert", marks=pytest.mark.slow)])
def test_composites(name: str) -> None:
    """Where no delegate knows a composite, what it stands for runs; XNNPACK knows attention."""
    check(name, "composites=true")
    artifact = gw.target("tflite{composites=true}").lower(gw.capture(build(name)))
    codes = [call.split(":")[0] for calls in artifact.provenance.values() for call in calls]
    assert codes.count("STABLEHLO_COMPOSITE") == (7 if name == "llama" else 2)
    assert "SOFTMAX" not in codes
    assert gw.compare(build(name), artifact.configure(delegate=False)).ok
