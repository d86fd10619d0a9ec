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


class Layer(torch.nn.Module):
    """Self-attention with a cache, as transformers writes it."""

    def __init__(self, key_heads: int) -> None:
        super().__init__()
        self.key_heads = key_heads
        self.q, self.kv = torch.nn.Linear(32, 32), torch.nn.Linear(32, 16 * key_heads)

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor, past_key: torch.Tensor, past_value: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        def heads(part: torch.Tensor, count: int) -> torch.Tensor:
            return part.view(*x.shape[:2], count, 8).transpose(1, 2)

        key, value = (heads(part, self.key_heads) for part in self.kv(x).chunk(2, -1))
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
        query = heads(self.q(x), 4)
        result = scaled_dot_product_attention(query, key, value, mask, enable_gqa=self.key_heads < 4)
        return result.transpose(1, 2).reshape(x.shape), key, value


@pytest.mark.parametrize("dialect", ["onnx", "ort"])
@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("past", [1, 3])
def test_cache_and_heads_side_by_side(past: int, key_heads: int, dialect: str) -> None:
    """The cache goes into the operator apart, and nothing is transposed, where heads are not grouped in `ort`."""
    torch.manual_seed(past + key_heads)
    model = Layer(key_heads)
    x, mask = torch.randn(2, 5, 32), some(2, 1, 5, 5 + past)
    caches = {name: torch.randn(2, key_heads, past, 8) for name in ("past_key", "past_value")}
    inputs = {"x": x, "mask": mask} | caches
    artifact = target(f"onnx{{dialect={dialect}}}").lower(capture(model, inputs, dynamic=None))
    nodes = {node.op_type: node for node in artifact.model.graph}
    assert ("Attention" in nodes) == (dialect == "onnx" or key_heads == 4)
    if "Attention" in nodes:
        assert len(nodes["Attention"].inputs) == 6 and not {"Transpose", "Concat"} & nodes.keys()
    with torch.no_grad():
        expected = model(**inputs)
    for have, want in zip(artifact.run(**inputs).values(), expected, strict=True):
        torch.testing.assert_close(have, want, rtol=2e-6, atol=2e-6)


def test_attention_in_blocks() -> None:
    """Without a mask and a cache, ONNX Runtime's own operator; longer than one block of its kernel."""

    class Plain(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            heads = x.view(2, -1, 4, 8).transpose(1, 2)
            return scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)

    x = torch.randn(2, 700, 32, generator=torch.Generator().manual_seed(0))
    artifact = target("onnx{dialect=ort}").lower(capture(Plain(), {"x": x}, dynamic=None))
    assert [node.op_type for node in artifact.model.graph] == ["MultiHeadAttention"]
    torch.testing.assert_close(artifact.run(x=x)["output"], Plain()(x), rtol=2e-5, atol=2e-6)
