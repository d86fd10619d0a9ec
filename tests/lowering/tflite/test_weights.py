"""Weights in fewer bits, integer activations and packed linears on LiteRT."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import graphwright as gw
from graphwright.ir.errors import FileFormatError, GraphwrightError
from graphwright.ir.packed import pack_codes

pytest.importorskip("ai_edge_litert")
packed_linear = torch.ops.graphwright.packed_linear.default


class Layer(torch.nn.Module):
    """A packed linear of random codes."""

    def __init__(self, bits: int, asymmetric: bool, scattered: bool = False, groups: int = 3) -> None:
        super().__init__()
        self.bits, outputs, inputs = bits, 48, 96
        self.size = inputs // groups
        self.register_buffer("codes", pack_codes(torch.randint(0, 2**bits, (outputs, inputs)), bits))
        self.register_buffer("scales", torch.rand(outputs, groups).half() + 0.1)
        zeros = torch.randint(0, 2**bits, (outputs, groups), dtype=torch.uint8)
        self.register_buffer("zeros", zeros if asymmetric else None)
        self.register_buffer("group", (torch.randperm(inputs) % groups).int() if scattered else None)
        self.register_buffer("bias", torch.randn(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return packed_linear(x, self.codes, self.scales, self.zeros, self.group, self.bias, self.bits, self.size)


def relative(have: torch.Tensor, want: torch.Tensor) -> float:
    return float((have - want).detach().norm() / want.norm())


@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize(("bits", "asymmetric"), [(2, True), (3, False), (4, False), (4, True), (8, True)])
def test_packed_linear_dequantized(bits: int, asymmetric: bool, scattered: bool) -> None:
    """Codes, zeros and scales are exact in the file: only the order of the sums differs (a few steps of float32)."""
    torch.manual_seed(bits)
    layer, x = Layer(bits, asymmetric, scattered).eval(), torch.randn(2, 3, 96)
    artifact = gw.target("tflite").lower(gw.capture(layer, (x,), dynamic=None))
    expected = layer(x)
    torch.testing.assert_close(artifact(x), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


# Kernels round the input of each row to 8 bits: half a step of 127 levels of some 3 sigma, about 1 %.
@pytest.mark.parametrize(("bits", "groups", "dtype"), [(4, 3, b"INT4"), (4, 1, b"INT4"), (8, 1, b"INT8")])
def test_packed_linear_multiplied_as_integers(bits: int, groups: int, dtype: bytes) -> None:
    from ai_edge_litert import schema_py_generated as schema

    torch.manual_seed(bits)
    layer, x = Layer(bits, False, groups=groups).eval(), torch.randn(2, 3, 96)
    artifact = gw.target("tflite{packed=native}").lower(gw.capture(layer, (x,), dynamic=None))
    assert relative(artifact(x), layer(x)) < 0.02
    model = schema.ModelT.InitFromPackedBuf(artifact.file.content, 0)
    weight = next(tensor for tensor in model.subgraphs[0].tensors if tensor.name == b"codes")
    assert weight.type == getattr(schema.TensorType, dtype.decode())
    blockwise = schema.QuantizationDetails.BlockwiseQuantization
    assert (weight.quantization.detailsType == blockwise) == (groups > 1)


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 256)).eval()
    return gw.capture(model, (torch.randn(4, 256),), dynamic=None)


# Half a step of 11 bits; of 127 levels of 6 sigma; of 15 levels, for each output and for each 32 inputs.
@pytest.mark.parametrize(
    ("kind", "share", "error"),
    [("f16", 0.52, 1e-3), ("i8", 0.28, 0.02), ("i4", 0.16, 0.2), ("i4b32", 0.17, 0.15), ("i4b64", 0.16, 0.15)],
)
def test_compressed_weights(program, kind: str, share: float, error: float) -> None:
    artifact = gw.target(f"tflite{{weights={kind}}}").lower(program)
    (x,) = program.example.leaves()
    assert 0 < relative(artifact(x), program.run(x)) < error
    assert len(artifact.file.content) < share * program.state_bytes() + 4096


@pytest.mark.parametrize(("kind", "error"), [("i8", 0.05), ("i16", 0.02)])
def test_integers_by_calibration(program, kind: str, error: float, tmp_path: Path) -> None:
    """No product is left in floats, and the results stay near."""
    (port,) = (port.name for port in gw.target("tflite").lower(program).interface.inputs)
    save_file({port: torch.randn(64, 256)}, tmp_path / "samples.safetensors")
    target = gw.target(f"tflite{{activations={kind},calibration={tmp_path / 'samples.safetensors'}}}")
    artifact = target.lower(program)
    (x,) = program.example.leaves()
    assert 0 < relative(artifact(x), program.run(x)) < error
    interpreter = artifact.file.make()
    types = {one["dtype"].__name__ for one in interpreter.get_tensor_details()}
    assert f"int{kind[1:]}" in types


def test_a_calibration_file_without_an_input_is_refused(program, tmp_path: Path) -> None:
    save_file({"other": torch.zeros(2)}, tmp_path / "samples.safetensors")
    target = gw.target(f"tflite{{activations=i8,calibration={tmp_path / 'samples.safetensors'}}}")
    with pytest.raises(FileFormatError, match="lack"):
        target.lower(program)


@pytest.mark.parametrize("text", ["weights=i5", "activations=i8", "activations=i8,weights=i8,calibration=x"])
def test_options_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(GraphwrightError):
        gw.target(f"tflite{{{text}}}")
