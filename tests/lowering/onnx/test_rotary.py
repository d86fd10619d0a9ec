"""Rotary embeddings on ONNX Runtime: the operator of opset 23, and written out.

Float32 of a few products: a few rounding steps, 1e-6 allowed; double is computed in double.
"""

from __future__ import annotations

import pytest
import torch

from graphwright.frontends.capture import capture
from graphwright.ir import library as _library  # noqa: F401 - defines torch.ops.graphwright
from graphwright.lowering.registry import target


class Rotate(torch.nn.Module):
    def __init__(self, doubled: bool = True) -> None:
        super().__init__()
        self.doubled = doubled

    def forward(self, x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        angles = torch.cat([angles, angles if self.doubled else angles * 2], -1).unsqueeze(1)
        return torch.ops.graphwright.rotary_embedding(x, angles.cos(), angles.sin())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("opset", [23, 20])
@pytest.mark.parametrize("width", [8, 4])
@pytest.mark.parametrize("rows", [3, 1])
def test_rotary(rows: int, width: int, opset: int, dtype: torch.dtype) -> None:
    torch.manual_seed(rows + width)
    inputs = {"x": torch.randn(3, 2, 5, 8, dtype=dtype), "angles": torch.randn(rows, 5, width // 2, dtype=dtype)}
    artifact = target(f"onnx{{opset={opset}}}").lower(capture(Rotate(), inputs, dynamic=None))
    kinds = {node.op_type for node in artifact.model.graph}
    assert ("RotaryEmbedding" in kinds) == (opset >= 23 and dtype == torch.float32)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(artifact.run(**inputs)["output"], Rotate()(**inputs), rtol=tolerance, atol=tolerance)


def test_halves_that_differ_are_written_out() -> None:
    inputs = {"x": torch.randn(3, 2, 5, 8), "angles": torch.randn(3, 5, 4)}
    model = Rotate(doubled=False)
    artifact = target("onnx").lower(capture(model, inputs, dynamic=None))
    assert "RotaryEmbedding" not in {node.op_type for node in artifact.model.graph}
    torch.testing.assert_close(artifact.run(**inputs)["output"], model(**inputs), rtol=1e-6, atol=1e-6)
