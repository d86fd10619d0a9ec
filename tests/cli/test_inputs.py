import pytest
import torch
import typer

from graphwright.cli.inputs import parse_inputs


def test_inputs_have_the_sizes_and_dtypes_asked_for():
    inputs = parse_inputs(["x=f32[2,16]", "ids=i64[2, 7]", "scale=f64[]"])
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in inputs.items()} == {
        "x": (torch.float32, (2, 16)),
        "ids": (torch.int64, (2, 7)),
        "scale": (torch.float64, ()),
    }


@pytest.mark.parametrize("text", ["x", "x=f32", "x=float[2]", "x=f32[two]", "=f32[2]"])
def test_a_malformed_input_is_a_usage_error(text):
    with pytest.raises(typer.BadParameter, match="dtype"):
        parse_inputs([text])
