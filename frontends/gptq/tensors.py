"""The tensors of one quantized linear, as GPTQ files store them.

| tensor | what it is |
|---|---|
| `qweight` | [K * bits / 32, N], int32: each column is the bit string of the K codes of an output |
| `qzeros` | [G, N * bits / 32], int32: each row is the bit string of the N zeros of a group; v1 stores each less one |
| `scales` | [G, N], float16 |
| `g_idx` | [K], int32: the group of each input; may be absent |

A column of `qweight`, read as bytes, is a row of our packed weight: nothing is unpacked on the way.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import torch
from torch import Tensor

from graphwright.ir.errors import FileFormatError
from graphwright.ir.packed import PackedWeight, pack_codes, unpack_codes

NAMES = ("qweight", "qzeros", "scales", "g_idx")
WORD = 32


def from_tensors(tensors: Mapping[str, Tensor], group_size: int, *, less_one: bool, carries: bool) -> PackedWeight:
    """The packed weight that the tensors of one module hold.

    Args:
        tensors: By the names above.
        group_size: Inputs of a group as the settings say; -1 for one group per output.
        less_one: Whether stored zeros are one less (v1).
        carries: Whether that was computed on whole words; see `GptqConfig.carries`.

    Raises:
        FileFormatError: The tensors do not fit each other.
    """
    bits, inputs, outputs = _sizes(tensors)
    groups = tensors["scales"].shape[0]
    size = inputs if group_size == -1 else group_size
    index = tensors.get("g_idx")
    if -(-inputs // size) != groups:  # a module with a group size of its own: the first group tells
        size = -(-inputs // groups) if index is None else max(int((index == 0).sum()), 1)
    weight = _octets(tensors["qweight"].t())
    words = tensors["qzeros"]
    zeros = _plus_one(words, bits, outputs, carries) if less_one else stored_zeros(words, bits, outputs)
    symmetric = bool((zeros == 2 ** (bits - 1)).all())
    if index is not None:
        index = _index(index.int(), inputs, groups, size)
    scales = tensors["scales"].t().contiguous()
    return PackedWeight(weight, scales, None if symmetric else zeros.t().contiguous(), index, bits, size, inputs)


def to_tensors(packed: PackedWeight, *, less_one: bool) -> dict[str, Tensor]:
    """The tensors that a file holds for a packed weight.

    Args:
        packed: The weight.
        less_one: Store each zero less one (v1), modulo the number of codes.

    Raises:
        FileFormatError: Its codes do not fill whole words of 32 bits.
    """
    outputs, bits = packed.scales.shape[0], packed.bits
    if packed.inputs * bits % WORD or outputs * bits % WORD:
        raise FileFormatError(
            f"a weight of {outputs} outputs and {packed.inputs} inputs cannot be stored with {bits} bits",
            why="the codes of an output, and the zeros of a group, must fill whole words of 32 bits",
            remedies=["leave this module out of quantization", "save the program instead of a GPTQ checkpoint"],
        )
    zeros = packed.zeros if packed.zeros is not None else _filled(packed.scales, 2 ** (bits - 1))
    stored = (zeros.int() - int(less_one)) & 2**bits - 1
    index = packed.group_index
    if index is None:
        index = torch.arange(packed.inputs, dtype=torch.int32) // packed.group_size
    return {
        "qweight": _words(packed.weight.cpu()).t().contiguous(),
        "qzeros": _words(pack_codes(stored.t().cpu(), bits)),
        "scales": packed.scales.t().to("cpu", torch.float16).contiguous(),
        "g_idx": index.cpu(),
    }


def stored_zeros(words: Tensor, bits: int, outputs: int) -> Tensor:
    """The fields [G, N], uint8, of `qzeros`, each masked by itself."""
    return unpack_codes(_octets(words), bits, outputs)


def _plus_one(words: Tensor, bits: int, outputs: int, carries: bool) -> Tensor:
    if carries and 8 % bits == 0:
        one = sum(1 << shift for shift in range(0, WORD, bits))
        words = ((words.long() + one) & 2**WORD - 1).to(torch.uint32).view(torch.int32)
        return stored_zeros(words, bits, outputs)
    return stored_zeros(words, bits, outputs) + 1 & 2**bits - 1


def _sizes(tensors: Mapping[str, Tensor]) -> tuple[int, int, int]:
    """(bits, inputs, outputs); all tensors are checked against them."""
    missing = [name for name in NAMES[:3] if name not in tensors]
    if missing:
        raise FileFormatError(f"the tensors {', '.join(missing)} are missing")
    qweight, qzeros, scales, index = (tensors.get(name) for name in NAMES)
    assert qweight is not None and qzeros is not None and scales is not None
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    matrices = all(tensor.dim() == 2 and tensor.numel() for tensor in (qweight, qzeros, scales))
    if not matrices or qweight.dtype != torch.int32 or qzeros.dtype != torch.int32 or not scales.is_floating_point():
        raise FileFormatError(
            "qweight and qzeros must be int32 and scales floating point, all matrices", why=f"{shapes}"
        )
    groups, outputs = scales.shape
    bits, rest = divmod(qzeros.shape[1] * WORD, outputs)
    inputs, odd = divmod(qweight.shape[0] * WORD, max(bits, 1))
    fits = qzeros.shape[0] == groups and qweight.shape[1] == outputs and groups <= inputs
    if rest or odd or not fits or bits not in (2, 3, 4, 8) or (index is not None and index.shape != (inputs,)):
        raise FileFormatError(
            "the tensors of a quantized linear do not fit each other", why=f"their shapes are {shapes}"
        )
    return bits, inputs, outputs


def _index(index: Tensor, inputs: int, groups: int, size: int) -> Tensor | None:
    """The group of each input, None where groups follow each other."""
    if int(index.min()) < 0 or int(index.max()) >= groups:
        raise FileFormatError(f"g_idx names group {int(index.max())}, there are {groups}")
    ordered = torch.arange(inputs, dtype=torch.int32, device=index.device) // size
    return None if torch.equal(index, ordered) else index


def _octets(words: Tensor) -> Tensor:
    """Rows of int32 as little-endian bytes."""
    octets = words.contiguous().view(torch.uint8)
    return octets if sys.byteorder == "little" else octets.unflatten(1, [-1, 4]).flip(-1).flatten(1)


def _words(octets: Tensor) -> Tensor:
    """Rows of little-endian bytes as int32."""
    if sys.byteorder != "little":
        octets = octets.unflatten(1, [-1, 4]).flip(-1).flatten(1)
    return octets.contiguous().view(torch.int32)


def _filled(scales: Tensor, value: int) -> Tensor:
    return torch.full(scales.shape, value, dtype=torch.uint8)
