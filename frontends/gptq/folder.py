"""The tensors of a transformers folder: one safetensors file, or shards with an index."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from graphwright.frontends.gptq.config import read_json
from graphwright.ir.errors import FileFormatError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class Tensors(Mapping[str, Tensor]):
    """Tensors of a folder by name, each read from its file when asked for.

    Raises:
        FileFormatError: A file is missing, truncated, or does not hold what the index says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = _files(folder)
        for path in sorted(set(self._files.values())):
            self._check(path)

    def __getitem__(self, name: str) -> Tensor:
        path = self._files[name]
        with _opened(path) as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def _check(self, path: Path) -> None:
        with _opened(path) as file:
            held = set(file.keys())
        missing = sorted(name for name, place in self._files.items() if place == path and name not in held)
        if missing:
            raise FileFormatError(f"the tensor '{missing[0]}' is not in the file", at=str(path), why=f"{INDEX} says so")


def write_tensors(tensors: Mapping[str, Tensor], folder: Path, shard_bytes: int) -> None:
    """Write tensors into a folder, as shards with an index where they take more than `shard_bytes`."""
    from safetensors.torch import save_file

    shards: list[dict[str, Tensor]] = [{}]
    used = 0
    for name, tensor in tensors.items():
        if shards[-1] and used + tensor.nbytes > shard_bytes:
            shards.append({})
            used = 0
        shards[-1][name] = tensor.detach().cpu().contiguous()
        used += tensor.nbytes
    if len(shards) == 1:
        save_file(shards[0], folder / SINGLE, {"format": "pt"})
        return
    places: dict[str, str] = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, {"format": "pt"})
        places |= dict.fromkeys(shard, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")


def _files(folder: Path) -> dict[str, Path]:
    """Tensor name -> file."""
    if (folder / INDEX).exists():
        places = read_json(folder / INDEX).get("weight_map")
        names = places.values() if isinstance(places, dict) else [None]
        if not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise FileFormatError("the index names no files", at=str(folder / INDEX))
        return {name: folder / file for name, file in places.items()}  # type: ignore[union-attr]
    paths = [folder / SINGLE] if (folder / SINGLE).exists() else sorted(folder.glob("*.safetensors"))
    if len(paths) != 1:
        raise FileFormatError(
            "cannot tell which file holds the weights", at=str(folder), why=f"no {INDEX}, {len(paths)} .safetensors"
        )
    with _opened(paths[0]) as file:
        return dict.fromkeys(file.keys(), paths[0])


def _opened(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise FileFormatError("cannot read the weights", at=str(path), why=str(error)) from error
