"""Tensors of GPTQ files: those that gptqmodel 7.7 wrote and what it dequantizes them to, both ways, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from graphwright.frontends.gptq.tensors import from_tensors, to_tensors
from graphwright.ir.errors import FileFormatError
from graphwright.ir.packed import PackedWeight, pack_codes

GOLDEN = load_file(Path(__file__).with_name("golden.safetensors"))
NAMES = sorted({name.partition(".")[0] for name in GOLDEN})


def golden(name):
    return {key: GOLDEN[f"{name}.{key}"] for key in ("qweight", "qzeros", "scales", "g_idx")}


def read(name, **options):
    return from_tensors(golden(name), 32, **{"less_one": "v2" not in name, "carries": True, **options})


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_those_that_gptqmodel_computes(name):
    assert torch.equal(read(name).dequantize().half(), GOLDEN[f"{name}.expected"])


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_is_written_again(name):
    written = to_tensors(read(name), less_one="v2" not in name)
    for key, tensor in golden(name).items():
        assert torch.equal(written[key], tensor), key


def test_symmetric_weights_have_no_zeros_and_ordered_groups_no_index():
    assert read("b4_sym").zeros is None and read("b4_sym").group_index is None
    assert read("b4_asym_act").zeros is not None and read("b4_asym_act").group_index is not None


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("less_one", [False, True])
def test_every_zero_stays_in_its_field(bits, less_one):
    """Zero 0 is stored as all ones in v1; its neighbours must not change."""
    zeros = torch.arange(32).remainder(2**bits).reshape(32, 1).repeat(1, 2).to(torch.uint8)
    codes = torch.randint(0, 2**bits, (32, 64))
    packed = PackedWeight(pack_codes(codes, bits), torch.rand(32, 2).half(), zeros, None, bits, 32, 64)
    tensors = to_tensors(packed, less_one=less_one)
    again = from_tensors(tensors, 32, less_one=less_one, carries=False)
    assert torch.equal(again.zeros, zeros) and torch.equal(again.codes(), codes)


def test_zeros_that_borrowed_are_read_by_adding_on_whole_words():
    zeros = torch.tensor([0, 5, 0, 3] * 8, dtype=torch.uint8).reshape(32, 1)
    packed = PackedWeight(torch.zeros(32, 16, dtype=torch.uint8), torch.ones(32, 1).half(), zeros, None, 4, 32, 32)
    tensors = to_tensors(packed, less_one=False)
    tensors["qzeros"] = tensors["qzeros"] - 0x11111111
    assert torch.equal(from_tensors(tensors, 32, less_one=True, carries=True).zeros, zeros)


def test_groups_of_a_module_may_differ():
    packed = read("b4_sym")
    tensors = to_tensors(packed, less_one=True)
    assert from_tensors(tensors, 64, less_one=True, carries=False).group_size == 32
    del tensors["g_idx"]
    assert from_tensors(tensors, 64, less_one=True, carries=False).group_size == 32


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("qweight", lambda t: t[:-1]),
        ("qweight", lambda t: t.long()),
        ("qzeros", lambda t: t[:, :-1]),
        ("scales", lambda t: t[:-1]),
        ("scales", lambda t: t[:, 0]),
        ("g_idx", lambda t: t[1:]),
        ("g_idx", lambda t: t + 7),
        ("scales", None),
    ],
)
def test_tensors_that_do_not_fit_are_refused(name, change):
    tensors = golden("b4_sym")
    if change is None:
        del tensors[name]
    else:
        tensors[name] = change(tensors[name])
    with pytest.raises(FileFormatError):
        from_tensors(tensors, 32, less_one=True, carries=False)


def test_codes_that_do_not_fill_words_are_refused():
    packed = PackedWeight(pack_codes(torch.zeros(4, 20), 4), torch.ones(4, 1), None, None, 4, 20, 20)
    with pytest.raises(FileFormatError, match="whole words"):
        to_tensors(packed, less_one=False)
