"""Linears in 8 bits: how exact they are, and that calibration decides the scales."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import graphwright as gw
from graphwright.lowering.hpu.fp8 import RANGE, eight_bits, powers_of_two

LIMIT = 0.1
"""Half as much again as is expected of the relative error."""


class Model(torch.nn.Module):
    """Two linears that read one value, two that share a weight, and one that gives the result."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Linear(32, 48), torch.nn.Linear(32, 48, bias=False)
        self.shared, self.last = torch.nn.Linear(48, 48), torch.nn.Linear(48, 8)

    def forward(self, inputs_embeds: torch.Tensor) -> torch.Tensor:
        x = self.first(inputs_embeds).relu() + self.second(inputs_embeds)
        return self.last(self.shared(self.shared(x).relu()))


def captured() -> tuple[Model, gw.Program]:
    model = Model().eval()
    return model, gw.capture(model, {"inputs_embeds": torch.randn(2, 5, 32)})


def calls(artifact: Any) -> list[str]:
    return [call for calls in artifact.provenance.values() for call in calls]


def error(model: Any, artifact: Any, x: torch.Tensor) -> float:
    want = model(x)
    (have,) = artifact.run(inputs_embeds=x).values()
    return float((have - want).norm().detach() / want.norm().detach())


def test_dynamic_scales() -> None:
    """A factor is off by up to 2^-4 of itself, 2.6 % in the mean square: 3.7 % per product, 6.4 % after three."""
    model, program = captured()
    artifact = gw.target("hpu{fp8=dynamic}").lower(program)
    found = calls(artifact)
    assert found.count("hpu.cast_to_fp8_v2") == 3 and found.count("hpu.fp8_gemm_v2") == 4
    assert found.count("linear") == 1
    for size in (1.0, 1e-3, 1e3):
        assert 1e-3 < error(model, artifact, size * torch.randn(2, 5, 32)) < LIMIT
    held = [value for value in artifact.program.state.values() if value.dtype == torch.float8_e4m3fn]
    assert len(held) == 3


def test_static_scales_come_from_the_calibration(tmp_path: Path) -> None:
    """Inputs as large as the calibration's are as exact as with dynamic scales; much larger ones are cut off."""
    model, program = captured()
    save_file({"inputs_embeds": torch.randn(9, 5, 32)}, tmp_path / "inputs.safetensors")
    target = f"hpu{{fp8=static,calibration={tmp_path / 'inputs.safetensors'}}}"
    artifact = gw.target(target).lower(program)
    assert not [call for call in calls(artifact) if call.startswith("amax")]
    assert 1e-3 < error(model, artifact, torch.randn(2, 5, 32)) < LIMIT
    assert error(model, artifact, 1e3 * torch.randn(2, 5, 32)) > 0.5
    folder = artifact.save(tmp_path / "out")
    x = torch.randn(2, 5, 32)
    torch.testing.assert_close(gw.load_artifact(folder).run(inputs_embeds=x), artifact.run(inputs_embeds=x))


def test_the_export_reports_the_error(tmp_path: Path) -> None:
    model, _ = captured()
    gw.export(model, tmp_path / "out", "hpu{fp8=dynamic}", inputs={"inputs_embeds": torch.randn(2, 5, 32)})
    (facts,) = json.loads((tmp_path / "out" / "manifest.json").read_text())["details"]["accuracy"].values()
    assert facts["precision"] == "fp8" and 0 < facts["errors"][0]["relative"] < LIMIT


def test_eight_bits() -> None:
    """Values come back within half a step of 3 bits of mantissa; scales are powers of two that fill the range."""
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 6, 16).unsqueeze(1)
    codes, scale = eight_bits(weight)
    torch.testing.assert_close(codes.float() * scale.unsqueeze(1), weight, rtol=2**-4, atol=float("inf"))
    top = codes.float().abs().amax(1)
    assert bool((top <= RANGE).all()) and bool((top > RANGE / 2 - 16).all())
    small = (codes.float() * scale.unsqueeze(1) - weight).abs() / weight.abs().amax(1, keepdim=True)
    assert float(small.max()) < 2**-4
    assert powers_of_two(torch.tensor(240.0)) == 1 and powers_of_two(torch.tensor(241.0)) == 2


def test_options(tmp_path: Path) -> None:
    with pytest.raises(gw.GraphwrightError, match="go together"):
        gw.target("hpu{fp8=static}")
    with pytest.raises(gw.GraphwrightError, match="dynamic, static"):
        gw.target("hpu{fp8=int}")
    save_file({"other": torch.zeros(1)}, tmp_path / "inputs.safetensors")
    with pytest.raises(gw.GraphwrightError, match="lack 'inputs_embeds'"):
        gw.target(f"hpu{{fp8=static,calibration={tmp_path / 'inputs.safetensors'}}}").lower(captured()[1])
