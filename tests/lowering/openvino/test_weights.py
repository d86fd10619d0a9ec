"""Weights in fewer bits, and packed linears, on OpenVINO."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import graphwright as gw
from graphwright.ir.packed import pack_codes

pytest.importorskip("openvino")
packed_linear = torch.ops.graphwright.packed_linear.default


class Layer(torch.nn.Module):
    """A packed linear of random codes."""

    def __init__(self, bits: int, asymmetric: bool, scattered: bool = False) -> None:
        super().__init__()
        self.bits, outputs, inputs, groups = bits, 48, 96, 3
        self.register_buffer("codes", pack_codes(torch.randint(0, 2**bits, (outputs, inputs)), bits))
        self.register_buffer("scales", torch.rand(outputs, groups).half())
        zeros = torch.randint(0, 2**bits, (outputs, groups), dtype=torch.uint8)
        self.register_buffer("zeros", zeros if asymmetric else None)
        self.register_buffer("group", (torch.randperm(inputs) % groups).int() if scattered else None)
        self.register_buffer("bias", torch.randn(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return packed_linear(x, self.codes, self.scales, self.zeros, self.group, self.bias, self.bits, 32)


@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize(("bits", "asymmetric"), [(2, True), (3, False), (4, False), (4, True), (8, True)])
def test_packed_linear(bits: int, asymmetric: bool, scattered: bool, tmp_path: Path) -> None:
    """Codes, zeros and scales are exact in the file: only the order of the sums differs (a few steps of float32)."""
    torch.manual_seed(bits)
    layer = Layer(bits, asymmetric, scattered).eval()
    artifact = gw.target("openvino").lower(gw.capture(layer, (torch.randn(2, 3, 96),)))
    artifact.save(tmp_path / "out")
    for x in (torch.randn(1, 1, 96), torch.randn(4, 7, 96)):
        expected = layer(x)
        for candidate in (artifact, gw.load_artifact(tmp_path / "out")):
            (result,) = candidate.run(x=x).values()
            torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


# Largest relative error of a weight of normal distribution: half a step of 11 bits, of 127 and of 15 levels of 6 sigma.
@pytest.mark.parametrize(("kind", "share", "error"), [("f16", 0.52, 1e-3), ("i8", 0.28, 0.02), ("u4", 0.22, 0.2)])
def test_compressed_weights(kind: str, share: float, error: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 256)).eval()
    program = gw.capture(model, (torch.randn(2, 256),))
    x = torch.randn(5, 256)
    folder = gw.target(f"openvino{{weights={kind}}}").lower(program).save(tmp_path / "out")
    (result,) = gw.load_artifact(folder).run(**{"input": x}).values()
    expected = model(x)
    assert 0 < float((result - expected).norm() / expected.norm()) < error
    assert (folder / "openvino_model.bin").stat().st_size < share * program.state_bytes()


class Layers(torch.nn.Module):
    """A table, a convolution and two linears."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.convolution = torch.nn.Embedding(40, 64), torch.nn.Conv1d(64, 64, 3, padding=1)
        self.first, self.last = torch.nn.Linear(64, 128), torch.nn.Linear(128, 64)
        with torch.no_grad():
            self.first.weight[3] = 0

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(self.convolution(self.table(ids).transpose(1, 2)).transpose(1, 2)))


@pytest.mark.parametrize(("kind", "held"), [("i8", {"i8": 4}), ("u4", {"i8": 3, "u4": 2})])
def test_what_is_held_in_how_many_bits(kind: str, held: dict[str, int]) -> None:
    """Four bits (codes and zero points) are for linears but the last; each rounding adds its share to the error."""
    torch.manual_seed(0)
    model, ids = Layers().eval(), torch.randint(0, 40, (2, 9))
    artifact = gw.target(f"openvino{{weights={kind}}}").lower(gw.capture(model, (ids,)))
    (result,), expected = artifact.run(ids=ids).values(), model(ids)
    assert 0 < float((result - expected).norm() / expected.norm()) < (0.02 if kind == "i8" else 0.15)
    constants = [node for node in artifact.model.get_ops() if node.get_type_name() == "Constant"]
    kinds = [node.get_output_element_type(0).get_type_name() for node in constants]
    assert {one: kinds.count(one) for one in held} == held


@pytest.mark.parametrize("fresh", [True, False])
def test_zeros_and_ones_are_left_out(fresh: bool) -> None:
    """A bias of zeros and the weights of a norm that is new are no operators of the model; others are."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8)).eval()
    torch.nn.init.zeros_(model[0].bias)
    if not fresh:
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
    artifact, x = gw.target("openvino").lower(gw.capture(model, (torch.randn(2, 8),))), torch.randn(5, 8)
    (result,) = artifact.run(**{"input": x}).values()
    torch.testing.assert_close(result, model(x), rtol=1e-5, atol=1e-5)
    kinds = [node.get_type_name() for node in artifact.model.get_ops()]
    assert kinds.count("Add") + kinds.count("Multiply") == (0 if fresh else 3)


def test_unknown_options() -> None:
    with pytest.raises(gw.GraphwrightError, match="weights=i3"):
        gw.target("openvino{weights=i3}")


class Transposed(torch.nn.Module):
    """A product with a matrix of [inputs, outputs], as in GPT-2's Conv1D."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = torch.nn.Parameter(torch.randn(256, 512)), torch.nn.Parameter(torch.randn(512))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, x.view(-1, 256), self.weight).view(*x.shape[:-1], 512)


def test_transposed_weights_are_compressed_too(tmp_path: Path) -> None:
    """8 bits per weight: half a step of 127 levels is below 2% of a normal distribution."""
    torch.manual_seed(0)
    model, x = Transposed().eval(), torch.randn(2, 3, 256)
    artifact = gw.target("openvino{weights=i8}").lower(gw.capture(model, (x,)))
    folder = artifact.save(tmp_path / "out")
    (result,) = gw.load_artifact(folder).run(x=x).values()
    expected = model(x).detach()
    assert 0 < float((result - expected).norm() / expected.norm()) < 0.02
    assert (folder / "openvino_model.bin").stat().st_size < 0.28 * 4 * model.weight.numel()
