"""Attention on ONNX Runtime against torch: masks, rows without any key, alignment, grouped heads, scale.

Float32, keys of 8 numbers: differences of a few rounding steps (measured 2e-7), 2e-6 allowed.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from graphwright.frontends.capture import capture
from graphwright.lowering.registry import target

LOWEST = torch.finfo(torch.float32).min


class Attend(torch.nn.Module):
    def __init__(self, causal: bool, scale: float | None, grouped: bool) -> None:
        super().__init__()
        self.options = {"is_causal": causal, "scale": scale, "enable_gqa": grouped}

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        return scaled_dot_product_attention(q, k, v, mask, **self.options)


def check(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None, *, opset: int,
    causal: bool = False, scale: float | None = None,
) -> None:  # fmt: skip
    model = Attend(causal, scale, grouped=q.dim() == 4 and q.shape[1] != k.shape[1])
    inputs = {"q": q, "k": k, "v": v} | ({} if mask is None else {"mask": mask})
    artifact = target(f"onnx{{opset={opset}}}").lower(capture(model, inputs, dynamic=None))
    assert any(node.op_type == "Attention" for node in artifact.model.graph) == (opset >= 23)
    expected = model(**inputs)
    assert not expected.isnan().any()
    torch.testing.assert_close(artifact.run(**inputs)["output"], expected, rtol=2e-6, atol=2e-6)


def qkv(queries: int, keys: int, heads: int = 4, key_heads: int = 4) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(queries * 10 + keys)
    shapes = [(2, heads, queries, 8), (2, key_heads, keys, 8), (2, key_heads, keys, 8)]
    return tuple(torch.randn(shape) * 2 for shape in shapes)


def some(*shape: int) -> torch.Tensor:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.4
    mask[..., 0] = True
    return mask


MASKS = {
    "keys": some(2, 1, 1, 6),
    "rows": some(2, 1, 5, 6),
    "heads": some(2, 4, 5, 6),
    "shared": some(5, 6),
    "row-without-keys": some(2, 1, 5, 6).index_fill(2, torch.tensor([1]), False),
    "float": torch.randn(2, 1, 5, 6, generator=torch.Generator().manual_seed(1)),
    "minus-infinity": torch.zeros(2, 1, 5, 6).masked_fill(~some(2, 1, 5, 6), -torch.inf),
    "minus-infinity-row": torch.zeros(2, 1, 5, 6).index_fill(2, torch.tensor([1]), -torch.inf),
    "lowest": torch.zeros(2, 1, 5, 6).masked_fill(~some(2, 1, 5, 6), LOWEST),
    "lowest-row": torch.zeros(2, 1, 5, 6).index_fill(2, torch.tensor([1]), LOWEST),
    "lowest-keys": torch.zeros(2, 1, 1, 6).masked_fill(~some(2, 1, 1, 6), LOWEST),
}


@pytest.mark.parametrize("opset", [23, 21])
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("key_heads", [4, 2])
def test_masks(name: str, key_heads: int, opset: int) -> None:
    check(*qkv(5, 6, key_heads=key_heads), MASKS[name], opset=opset)


@pytest.mark.parametrize("opset", [23, 21])
@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (3, 7), (7, 3), (1, 6)])
def test_causal_starts_top_left(queries: int, keys: int, opset: int) -> None:
    check(*qkv(queries, keys, key_heads=1), opset=opset, causal=True)


@pytest.mark.parametrize("opset", [23, 21])
def test_scale(opset: int) -> None:
    check(*qkv(5, 6), opset=opset, scale=0.7)
    check(*qkv(5, 6), MASKS["float"], opset=opset, scale=1.0)


@pytest.mark.parametrize("opset", [23, 21])
def test_rank_3(opset: int) -> None:
    q, k, v = (part.flatten(0, 1) for part in qkv(5, 6))
    check(q, k, v, opset=opset)
    check(q, k, v, some(5, 6), opset=opset)
    check(q, k, v, some(8, 5, 6), opset=opset)


def test_double_is_computed_in_double() -> None:
    q, k, v = (part.double() for part in qkv(5, 6))
    model = Attend(False, None, False)
    artifact = target("onnx").lower(capture(model, {"q": q, "k": k, "v": v}, dynamic=None))
    torch.testing.assert_close(artifact.run(q=q, k=k, v=v)["output"], model(q, k, v), rtol=1e-13, atol=1e-13)


def test_active_dropout_is_refused() -> None:
    class Dropping(torch.nn.Module):
        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return scaled_dot_product_attention(q, k, v, dropout_p=0.5)

    report = target("onnx").check(capture(Dropping(), qkv(5, 6), dynamic=None))
    assert [item.reason for item in report.unsupported] == ["attention with dropout"]
