"""What Neuron's compiler refuses is named before it is asked: each node, with the compiler's code."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("jax")

import graphwright as gw
from graphwright.ir.errors import UnsupportedError
from graphwright.lowering.neuron.hlo import read, renumbered
from graphwright.lowering.neuron.verify import check, violations
from graphwright.lowering.neuron.xla import hlo_proto, parse, with_locations


class Call(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def report(function, *args, device="trn2"):
    program = gw.capture(Call(function), args, dynamic=None)
    return gw.target(f"neuron{{device={device}}}").check(program)


def codes(found):
    return {item.reason.partition(":")[0] for item in found.unsupported}


LONG = torch.randn(8, 4096)
X, N = torch.randn(4, 4), torch.arange(16).reshape(4, 4)
REFUSED = {
    "NCC_EMOD025": (lambda x: x[x[:, 0] > 0], X),
    "NCC_EVRF004": (lambda x: torch.view_as_real(torch.complex(x, x)), X),
    "NCC_ESPP004": (lambda x: x.double() * 2, X),
    "NCC_EVRF005": (lambda x: x.to(torch.float8_e4m3fnuz).float(), X),
    "NCC_EVRF051": (lambda x: x.to(torch.float8_e4m3fn).float(), X),
    "NCC_EVRF001": (lambda x: torch.linalg.solve_triangular(x, x, upper=True), X),
    "NCC_EVRF006": (lambda x: x + torch.rand(4), X),
    "NCC_ESFH002": (lambda n: n + 5_000_000_000, N),
    "NCC_EVRF035": (lambda n: n @ n, N),
    "NCC_EVRF029": (lambda x: x.sort(-1)[0], LONG),
    "NCC_EVRF016": (lambda n: n.scatter_add(1, n % 4, n), N),
    "NCC_EVRF056": (lambda x: torch.nn.functional.embedding(torch.arange(7), x), X),
}


@pytest.mark.parametrize("code", REFUSED)
def test_codes(code):
    function, argument = REFUSED[code]
    assert code in codes(report(function, argument))


def test_older_devices_take_what_newer_ones_do_not():
    for code in ("NCC_EVRF035", "NCC_EVRF029"):
        function, argument = REFUSED[code]
        assert report(function, argument, device="trn1").ok


def test_every_node_is_named():
    with pytest.raises(UnsupportedError) as raised:
        report(lambda x, n: (x.sort(-1)[0], x.sort(-1, descending=True)[0], n @ n), LONG, N).raise_if_unsupported()
    text = str(raised.value)
    assert "sort x2: NCC_EVRF029" in text and "%sort_1" in text and "matmul x1: NCC_EVRF035" in text


def module(body, arguments="%a: tensor<4x4xf32>"):
    text = f"module @m {{ func.func public @main({arguments}) -> tensor<4x4xf32> {{ {body} }} }}"
    context, parsed = parse(text)
    with context:
        return read(renumbered(hlo_proto(with_locations(parsed))))


DILATED = """%c = stablehlo.constant dense<0.0> : tensor<f32>
  %0 = "stablehlo.reduce_window"(%a, %c) <{window_dimensions = array<i64: 2, 1>, window_dilations = array<i64: 2, 1>,
    padding = dense<[[2, 0], [0, 0]]> : tensor<2x2xi64>}> ({ ^bb0(%l: tensor<f32>, %r: tensor<f32>):
      %s = stablehlo.add %l, %r : tensor<f32>
      stablehlo.return %s : tensor<f32> }) : (tensor<4x4xf32>, tensor<f32>) -> tensor<4x4xf32>
  return %0 : tensor<4x4xf32>"""
BODIES = {
    "NCC_EVRF015": "%0 = stablehlo.custom_call @Other(%a) : (tensor<4x4xf32>) -> tensor<4x4xf32> "
    "return %0 : tensor<4x4xf32>",
    "NCC_ESPP004": "%0 = stablehlo.convert %a : (tensor<4x4xf32>) -> tensor<4x4xf64> "
    "%1 = stablehlo.convert %0 : (tensor<4x4xf64>) -> tensor<4x4xf32> return %1 : tensor<4x4xf32>",
    "NCC_EVRF022": "%0 = stablehlo.convert %a : (tensor<4x4xf32>) -> tensor<4x4xi8> "
    "%1 = stablehlo.shift_right_arithmetic %0, %0 : tensor<4x4xi8> "
    "%2 = stablehlo.convert %1 : (tensor<4x4xi8>) -> tensor<4x4xf32> return %2 : tensor<4x4xf32>",
    "NCC_EVRF018": DILATED,
}


@pytest.mark.parametrize("code", BODIES)
def test_the_emitted_hlo_is_looked_at_again(code):
    found = module(BODIES[code])
    assert code in {one for one, *_ in violations(found, "trn2")}
    with pytest.raises(UnsupportedError, match=code):
        check(found, "trn2")


def test_plain_hlo_is_fine():
    found = module("%0 = stablehlo.add %a, %a : tensor<4x4xf32> return %0 : tensor<4x4xf32>")
    assert not list(violations(found, "trn2"))
