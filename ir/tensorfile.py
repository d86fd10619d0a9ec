"""Tensors in a safetensors file: ties, views and strides survive, shared memory is written once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file

from graphwright.ir.encoding import DTYPES
from graphwright.ir.errors import FileFormatError, GraphwrightError

_NATIVE = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2}
    | {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool}
)
_ALIGNMENT = 16


@dataclass(frozen=True)
class Extent:
    """The bytes of a storage that a tensor covers."""

    storage: int
    start: int
    stop: int

    @staticmethod
    def of(tensor: torch.Tensor) -> Extent:
        """Extent of a tensor; empty for a tensor without elements."""
        width = tensor.element_size()
        start = int(tensor.storage_offset()) * width
        last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        return Extent(tensor.untyped_storage()._cdata, start, start + (last + 1) * width if tensor.numel() else start)


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> dict[str, Any]:
    """Write tensors to `path`.

    Returns:
        JSON-able layout that `load_tensors` needs to restore them.

    Raises:
        GraphwrightError: A tensor is not plain and dense; names it.
    """
    layout: dict[str, Any] = {}
    first: dict[int, str] = {}
    for name, tensor in tensors.items():
        _check(name, tensor)
        if id(tensor) in first:
            layout[name] = {"same_as": first[id(tensor)]}
        else:
            first[id(tensor)] = name
    blobs: dict[str, torch.Tensor] = {}
    for names in _overlapping({name: tensors[name] for name in tensors if name not in layout}):
        blobs |= _pack({name: tensors[name] for name in names}, layout)
    save_file(blobs, path)
    return {name: layout[name] for name in tensors}


def _check(name: str, tensor: torch.Tensor) -> None:
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout is torch.strided
    if not plain or tensor.is_meta or tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
        raise GraphwrightError(
            f"the tensor '{name}' cannot be written",
            why=f"it is a {type(tensor).__name__} of layout {tensor.layout} on {tensor.device}",
            remedies=["replace it by a plain dense tensor"],
        )


def _overlapping(tensors: Mapping[str, torch.Tensor]) -> Iterable[list[str]]:
    """Names grouped by shared bytes."""
    extents = {name: Extent.of(tensor) for name, tensor in tensors.items()}
    group: list[str] = []
    end = Extent(-1, 0, 0)
    for name in sorted(extents, key=lambda name: (extents[name].storage, extents[name].start)):
        extent = extents[name]
        if group and extent.storage == end.storage and extent.start < end.stop:
            group.append(name)
            end = Extent(extent.storage, end.start, max(end.stop, extent.stop))
        else:
            if group:
                yield group
            group, end = [name], extent
    if group:
        yield group


def _pack(tensors: Mapping[str, torch.Tensor], layout: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The blob for one group of overlapping tensors: the tensor itself where it is alone, else the raw bytes."""
    name, tensor = next(iter(tensors.items()))
    views = {(t.dtype, t.shape, t.stride(), t.storage_offset()) for t in tensors.values()}
    raw = len(views) > 1 or tensor.dtype not in _NATIVE or not _is_dense(tensor)
    start = min(Extent.of(t).start for t in tensors.values())
    start -= start % _ALIGNMENT
    stop = max(Extent.of(t).stop for t in tensors.values())
    for other, view in tensors.items():
        offset = Extent.of(view).start - start
        layout[other] = _entry(view) | {"blob": name, "raw": raw, "offset": offset}
    return {name: _bytes(tensor, start, stop) if raw else tensor.detach().cpu().contiguous()}


def _is_dense(tensor: torch.Tensor) -> bool:
    """Whether each byte of the extent belongs to exactly one element."""
    return Extent.of(tensor).stop - Extent.of(tensor).start == tensor.numel() * tensor.element_size()


def _bytes(tensor: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    whole = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())
    return whole[start:stop].cpu().clone()


def _entry(tensor: torch.Tensor) -> dict[str, Any]:
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "stride": list(tensor.stride()),
        "device": str(tensor.device),
        "parameter": isinstance(tensor, torch.nn.Parameter),
        "requires_grad": tensor.requires_grad,
    }


def load_tensors(layout: Mapping[str, Any], path: Path) -> dict[str, torch.Tensor]:
    """Read what `save_tensors` wrote.

    Raises:
        FileFormatError: The file is missing or truncated, or does not fit the layout.
    """
    try:
        blobs = load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise FileFormatError("cannot read the tensors", at=str(path), why=str(error)) from error
    tensors: dict[str, torch.Tensor] = {}
    for name, entry in layout.items():
        try:
            tensors[name] = tensors[entry["same_as"]] if "same_as" in entry else _restore(entry, blobs)
        except (KeyError, TypeError, RuntimeError) as error:
            raise FileFormatError(
                f"the tensor '{name}' does not fit its file", at=str(path), why=f"{type(error).__name__}: {error}"
            ) from error
    return tensors


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of any safetensors file, by name.

    Raises:
        FileFormatError: The file is missing, truncated, or no safetensors file.
    """
    try:
        return load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise FileFormatError("the tensors cannot be read", at=str(path), why=str(error)) from error


def _restore(entry: Mapping[str, Any], blobs: dict[str, torch.Tensor]) -> torch.Tensor:
    dtype, shape, stride = DTYPES[entry["dtype"]], tuple(entry["shape"]), tuple(entry["stride"])
    blob = blobs[entry["blob"]]
    if entry["device"] != str(blob.device):
        blob = blobs[entry["blob"]] = blob.to(entry["device"])
    if entry["raw"]:
        tensor = _view(blob, dtype, shape, stride, entry["offset"])
    else:
        tensor = _strided(blob, dtype, shape, stride)
        blobs[entry["blob"]] = tensor
    if entry["parameter"]:
        return torch.nn.Parameter(tensor, requires_grad=entry["requires_grad"])
    return tensor.detach().requires_grad_(entry["requires_grad"])


def _view(blob: torch.Tensor, dtype: torch.dtype, shape: Any, stride: Any, offset: int) -> torch.Tensor:
    if blob.dtype != torch.uint8 or offset % dtype.itemsize:
        raise TypeError("bytes expected")
    last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if offset < 0 or (0 not in shape and offset + (last + 1) * dtype.itemsize > blob.numel()):
        raise TypeError("the view reaches outside of its bytes")
    whole = torch.empty(0, dtype=dtype, device=blob.device)
    return whole.set_(blob.untyped_storage(), offset // dtype.itemsize, shape, stride)


def _strided(blob: torch.Tensor, dtype: torch.dtype, shape: Any, stride: Any) -> torch.Tensor:
    if blob.dtype != dtype or tuple(blob.shape) != shape:
        raise TypeError(f"{blob.dtype}{list(blob.shape)} found, {dtype}{list(shape)} expected")
    if blob.stride() == stride:
        return blob
    if sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) + 1 != blob.numel():
        raise TypeError(f"the strides {list(stride)} do not fit the shape {list(shape)}")
    tensor = torch.empty_strided(shape, stride, dtype=dtype, device=blob.device)
    return tensor.copy_(blob)
