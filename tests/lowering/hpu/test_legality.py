"""What Gaudi cannot run is reported node by node, with the vendor's rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import graphwright as gw
from graphwright.lowering.hpu import hpu_ops
from graphwright.lowering.support import SupportReport

X = torch.randn(1, 2, 4, 8)


class Function(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


def report(function: Callable[..., Any], x: torch.Tensor = X) -> SupportReport:
    """What the target says to a function as it stands, with no pass before."""
    program = gw.capture(Function(function), (x,), dynamic=None)
    return gw.target("hpu").survey(program)


def attention(
    mask: Any = None, causal: bool = False, length: Any = None, mode: str = "None", side: str = "left"
) -> Any:
    op = torch.ops.hpu.sdpa_recomp_fwd.default

    def call(x: torch.Tensor) -> torch.Tensor:
        given = None if mask is None else x.new_zeros(4, 4)
        valid = None if length is None else torch.ones(1, dtype=torch.int32)
        return op(x, x, x, given, 0.0, 1.0, causal, False, mode, valid, side)[0]

    return call


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x.double() * 2, "Gaudi has no torch.float64"),
        (lambda x: torch.view_as_complex(x.unflatten(-1, (4, 2))).abs(), "Gaudi has no torch.complex64"),
        (lambda x: x.to(torch.float8_e4m3fnuz).float(), "Gaudi has no torch.float8_e4m3fnuz"),
        (lambda x: torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,)), "without branches"),
        (attention(mode="quick"), "there is no softmax_mode 'quick'"),
        (attention(side="middle"), "there is no seq_padding_type 'middle'"),
        (lambda x: torch.ops.hpu.rotary_pos_embedding(x, x, x, None, 0, 2), "mode is 0"),
        (lambda x: torch.ops.hpu.rotary_pos_embedding(x[..., :7], x[..., :7], x[..., :7], None, 0, 0), "no pairs"),
    ],
)
def test_reports(function: Callable[..., Any], reason: str) -> None:
    found = [item for item in report(function).unsupported if reason in item.reason]
    assert found and all(item.node and item.op for item in found)


def test_all_nodes_at_once() -> None:
    reported = report(lambda x: (x.double() * 2, torch.view_as_complex(x.unflatten(-1, (4, 2))).abs()))
    assert len({item.reason for item in reported.unsupported}) == 2
    assert len(reported.unsupported) >= 3


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"causal": True, "mask": True}, "attention_mask and is_causal together"),
        ({"length": 1}, "valid_seq_len goes with is_causal"),
        ({"length": 1, "causal": True, "mask": True}, "attention_mask and is_causal together"),
    ],
)
def test_rules_of_attention(given: dict[str, Any], reason: str) -> None:
    """Calls that the kernel refuses, so that they can only be made by hand."""
    program = gw.capture(Function(attention(mask=True)), (X,), dynamic=None)
    node = next(node for node in program.graph.nodes if node.target is torch.ops.hpu.sdpa_recomp_fwd.default)
    mask, length = node.args[3], node.args[0]
    args = [*node.args[:3], mask if given.get("mask") else None, *node.args[4:]]
    args[6], args[9] = given.get("causal", False), length if given.get("length") else None
    node.args = tuple(args)
    (item,) = gw.target("hpu").survey(program).unsupported
    assert reason in item.reason and item.node == node.name


def test_rules_of_experts_and_products() -> None:
    x = torch.randn(3, 8)
    weights = [torch.randn(8, 8)] * 2
    table, shares = torch.zeros(3, 1, dtype=torch.long), torch.ones(3, 1)

    def program(name: str, *arguments: Any) -> gw.Program:
        return gw.capture(Function(lambda x: hpu_ops.find(name)(x, *arguments)), (x,), dynamic=None)

    made = program("mixture_of_experts", table, shares, weights, weights, weights, True, "silu", 0, 1)
    node = next(node for node in made.graph.nodes if "mixture" in str(node.target))
    node.args = (*node.args[:7], "tanh", 0, 1)
    (item,) = gw.target("hpu").survey(made).unsupported
    assert "not 'tanh'" in item.reason
    node.args = (*node.args[:7], "silu", 0, 2)
    (item,) = gw.target("hpu").survey(made).unsupported
    assert "w1 has 2 matrices for 3 experts" in item.reason

    product = program("fp8_gemm_v2", False, weights[0], True, None, torch.float32, None, None, None, False, None)
    (item,) = gw.target("hpu").survey(product).unsupported
    assert "A must be in 8 bits" in item.reason


def test_sizes_that_depend_on_values() -> None:
    found = report(lambda x: torch.nonzero(x.flatten()))
    assert any("depends on values" in item.reason for item in found.unsupported)


def test_what_has_no_operator_is_decomposed() -> None:
    """Our own ops are ATen's in the end; attention with soft-capped scores has no fused operator."""
    call = torch.ops.graphwright.attention

    def function(x: torch.Tensor) -> torch.Tensor:
        return call(x, x, x, None, scale=0.3, softcap=5.0)

    program = gw.capture(Function(function), (X,), dynamic=None)
    artifact = gw.target("hpu").lower(program)
    assert not any("graphwright" in call for calls in artifact.provenance.values() for call in calls)
    gw.compare(program, artifact)
