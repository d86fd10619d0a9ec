import pytest
import torch
from torch import nn

from graphwright.ir.errors import FileFormatError, GraphwrightError
from graphwright.ir.tensorfile import load_tensors, save_tensors


def round_trip(tensors, tmp_path):
    layout = save_tensors(tensors, tmp_path / "t.safetensors")
    return load_tensors(layout, tmp_path / "t.safetensors")


def same(a, b):
    return (
        type(a) is type(b)
        and a.dtype == b.dtype
        and a.stride() == b.stride()
        and a.requires_grad == b.requires_grad
        and torch.equal(a.detach(), b.detach())
    )


BASE = torch.arange(24.0)


@pytest.mark.parametrize(
    "tensor",
    [
        BASE.view(4, 6),
        BASE.view(4, 6).t(),
        BASE.view(4, 6)[:, 1:3],
        BASE.view(4, 6)[::2],
        BASE[3:5].expand(4, 2),
        BASE[:1].view(1, 1).expand(1, 1),
        torch.empty(0, 3),
        torch.tensor(2.5),
        torch.ones(3, dtype=torch.bfloat16),
        torch.ones(3, dtype=torch.complex64) * 1j,
        torch.ones(3, dtype=torch.complex128) * 1j,
        torch.tensor([True, False]),
        torch.tensor([float("nan"), float("inf"), -0.0]).nan_to_num(nan=0.0),
        torch.ones(2, 4, 3, 3).to(memory_format=torch.channels_last),
        nn.Parameter(torch.ones(2)),
        nn.Parameter(torch.ones(2), requires_grad=False),
        torch.ones(2, requires_grad=True),
    ],
)
def test_each_kind_of_tensor_comes_back(tensor, tmp_path):
    back = round_trip({"a": tensor}, tmp_path)["a"]
    assert same(back, tensor)


def test_ties_and_views_share_memory_again(tmp_path):
    weight = nn.Parameter(torch.arange(12.0).view(3, 4))
    tensors = {
        "weight": weight,
        "tied": weight,
        "again": nn.Parameter(weight.data),
        "row": weight.data[1],
        "transposed": weight.data.t(),
        "bits": weight.data.view(torch.int32),
    }
    back = round_trip(tensors, tmp_path)
    assert all(same(back[name], tensor) for name, tensor in tensors.items())
    assert back["tied"] is back["weight"]
    with torch.no_grad():
        back["weight"][1, 2] = -1
    assert back["again"][1, 2] == back["row"][2] == back["transposed"][2, 1] == -1
    size = (tmp_path / "t.safetensors").stat().st_size
    assert size < 12 * 4 + 200


def test_neighbours_in_one_storage_are_written_apart(tmp_path):
    whole = torch.arange(10.0)
    back = round_trip({"a": whole[:4], "b": whole[4:]}, tmp_path)
    assert back["a"].untyped_storage().nbytes() == 16
    assert torch.equal(back["b"], whole[4:])


@pytest.mark.parametrize("tensor", [torch.ones(2, 2).to_sparse(), torch.ones(2, device="meta"), torch.ones(2) * 1j])
def test_other_tensors_are_refused_by_name(tensor, tmp_path):
    if tensor.is_complex():
        tensor = tensor.conj()
    with pytest.raises(GraphwrightError, match="'odd'"):
        save_tensors({"odd": tensor}, tmp_path / "t.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [2, 3]},
        {"stride": [1000, 1]},
        {"stride": [-1, 1]},
        {"dtype": "float64"},
        {"dtype": "nope"},
        {"blob": "other"},
        {"raw": True},
        {"raw": True, "offset": -8},
        {"same_as": "later"},
        {"device": "nowhere"},
    ],
)
def test_layouts_that_do_not_fit_are_refused(change, tmp_path):
    layout = save_tensors({"a": torch.ones(4, 3)}, tmp_path / "t.safetensors")
    with pytest.raises(FileFormatError, match="'a'"):
        load_tensors({"a": layout["a"] | change}, tmp_path / "t.safetensors")


def test_views_outside_of_their_bytes_are_refused(tmp_path):
    layout = save_tensors({"a": BASE[:8].expand(3, 8)}, tmp_path / "t.safetensors")
    with pytest.raises(FileFormatError, match="'a'"):
        load_tensors({"a": layout["a"] | {"stride": [1, 1]}}, tmp_path / "t.safetensors")
