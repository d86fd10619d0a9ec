"""The work folder of a quantization: finished stages on disk, so that an interrupted run goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from graphwright.ir.errors import FileFormatError
from graphwright.ir.tensorfile import load_tensors, save_tensors
from graphwright.passes.quant.codes import QuantizedLinear
from graphwright.passes.quant.sites import Site

_FACTS = ("bits", "group_size", "error", "rtn_error", "damping")
_TENSORS = ("codes", "scales", "zeros", "group_index")


class Work:
    """Two files per finished stage, the description written last; a run with another key starts anew.

    Args:
        folder: The folder; made if it is not there.
        key: What identifies the run, from `run_key`.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, stage: int, results: Mapping[str, QuantizedLinear]) -> None:
        """Write a finished stage."""
        tensors, facts = {}, {}
        for path, linear in results.items():
            facts[path] = {name: getattr(linear, name) for name in _FACTS}
            for name in _TENSORS:
                if (tensor := getattr(linear, name)) is not None:
                    tensors[f"{path}/{name}"] = tensor.cpu().contiguous()
        layout = save_tensors(tensors, self._file(stage).with_suffix(".safetensors"))
        partial = self._file(stage).with_suffix(".partial")
        partial.write_text(json.dumps({"key": self.key, "linears": facts, "layout": layout}), encoding="utf-8")
        partial.rename(self._file(stage))

    def load(self, stage: int) -> dict[str, QuantizedLinear] | None:
        """A stage that was finished before, None if it was not or belongs to another run.

        Raises:
            FileFormatError: The file is damaged.
        """
        path = self._file(stage)
        if not path.exists():
            return None
        key, results = _read(path)
        return results if key == self.key else None

    def _file(self, stage: int) -> Path:
        return self.folder / f"stage-{stage:05}.json"


def read_stages(folder: Path) -> dict[str, QuantizedLinear]:
    """All finished stages of a work folder, whatever run they belong to: module path -> codes.

    Raises:
        FileFormatError: A file is damaged, or there is none.
    """
    files = sorted(folder.glob("stage-*.json"))
    if not files:
        raise FileFormatError("there is no finished stage", at=str(folder))
    results: dict[str, QuantizedLinear] = {}
    for file in files:
        results |= _read(file)[1]
    return results


def _read(path: Path) -> tuple[str, dict[str, QuantizedLinear]]:
    """(key of the run, codes by path) of one stage."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        tensors = load_tensors(fields["layout"], path.with_suffix(".safetensors"))
        return fields["key"], {name: _linear(name, values, tensors) for name, values in fields["linears"].items()}
    except (KeyError, TypeError, ValueError, OSError, FileFormatError) as error:
        raise FileFormatError(
            "a finished stage cannot be read", at=str(path), why=str(error), remedies=["delete the file"]
        ) from error


def _linear(path: str, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> QuantizedLinear:
    parts = [tensors.get(f"{path}/{name}") for name in _TENSORS]
    return QuantizedLinear(*parts, **{name: facts[name] for name in _FACTS})  # type: ignore[arg-type]


def run_key(sites: Sequence[Site], batches: Sequence[Mapping[str, Any]], weights: Sequence[Tensor]) -> str:
    """A digest of what a run depends on: linears, their options, the data, and a sample of the weights."""
    digest = hashlib.sha256(json.dumps([[site.path, asdict(site.options)] for site in sites]).encode())
    for batch in batches:
        for name, value in sorted(batch.items()):
            data = value.cpu().contiguous().flatten().float().numpy().tobytes() if isinstance(value, Tensor) else value
            digest.update(f"{name}:".encode() + (data if isinstance(data, bytes) else repr(data).encode()))
    for weight in weights:
        digest.update(weight.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()
