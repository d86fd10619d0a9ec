"""`save_gptq`: a transformers model and its packed weights as a GPTQ checkpoint that other readers load."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from graphwright.frontends.gptq.config import FILE, KEY, MODEL_FILE, V1, V2, GptqConfig
from graphwright.frontends.gptq.experts import PARTS, PackedExperts, split_experts
from graphwright.frontends.gptq.folder import write_tensors
from graphwright.frontends.gptq.module import PackedLinear
from graphwright.frontends.gptq.tensors import to_tensors
from graphwright.ir.errors import FileFormatError, InputError
from graphwright.ir.packed import PackedWeight

SHARD_BYTES = 5_000_000_000


def save_gptq(
    model: Any,
    folder: str | Path,
    weights: Mapping[str, PackedWeight] | None = None,
    *,
    checkpoint_format: str = "auto",
    shard_bytes: int = SHARD_BYTES,
    meta: Mapping[str, Any] | None = None,
) -> Path:
    """Write a GPTQ checkpoint; the folder appears when it is complete.

    Args:
        model: The transformers model: its config, and its weights that are not quantized.
        folder: Must not exist yet.
        weights: Packed weights by module path, those of experts in one tensor by the path of that, [E * N, K]; by
            default those of the model's own `PackedLinear` layers.
        checkpoint_format: `gptq` (v1), `gptq_v2`, or `auto`: v1, which all readers know, for symmetric weights, and v2
            for others: v1 cannot hold a zero of 0, and readers refuse it for asymmetric weights of unknown origin.
        shard_bytes: Largest size of one file.
        meta: How the codes were made, for the record.

    Raises:
        InputError: There is nothing to write, the folder exists, or v1 cannot hold the zeros.
        FileFormatError: A weight does not fit the format; names the module.
    """
    folder = Path(folder)
    weights = packed_weights(model) if weights is None else dict(weights)
    if not weights or folder.exists():
        what = f"the folder {folder} exists already" if weights else "the model has no packed weights"
        raise InputError(what, remedies=["name a new folder" if weights else "quantize it first"])
    config = _config(weights, checkpoint_format, meta or {})
    tensors = _rest(model, weights)
    for path, packed in split_experts(model, weights).items():
        tensors |= {f"{path}.{name}": tensor for name, tensor in _tensors(path, packed, config).items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write(model, tensors, config, scratch, shard_bytes)
        scratch.chmod(0o755)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def packed_weights(model: Any) -> dict[str, PackedWeight]:
    """The packed weights of a model's `PackedLinear` layers by module path; of experts by the parameter's."""
    layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, PackedLinear)}
    return {
        path.replace(".packed_", ".") if isinstance(layer, PackedExperts) else path: layer.packed
        for path, layer in layers.items()
    }


def _config(weights: Mapping[str, PackedWeight], label: str, meta: Mapping[str, Any]) -> GptqConfig:
    overflow = any(packed.zeros is not None and bool((packed.zeros == 0).any()) for packed in weights.values())
    if label not in (V1, V2, "auto") or (label == V1 and overflow):
        why = "a zero is 0, which v1 stores as -1" if overflow else f"known are auto, {V1} and {V2}"
        raise InputError(f"cannot write the checkpoint in the format '{label}'", why=why, remedies=[f"use {V2}"])
    symmetric = all(packed.zeros is None for packed in weights.values())
    label = (V1 if symmetric else V2) if label == "auto" else label
    whole = all(packed.group_size >= packed.inputs for packed in weights.values())
    return GptqConfig(
        bits=_common([packed.bits for packed in weights.values()]),
        group_size=-1 if whole else _common([packed.group_size for packed in weights.values()]),
        desc_act=any(packed.group_index is not None for packed in weights.values()),
        sym=symmetric,
        checkpoint_format=label,
        lm_head="lm_head" in weights,
        meta={"quantizer": ["graphwright"], **meta},
    )


def _common(values: list[int]) -> int:
    return max(set(values), key=values.count)


def _tensors(path: str, packed: PackedWeight, config: GptqConfig) -> dict[str, Tensor]:
    try:
        return to_tensors(packed, less_one=config.checkpoint_format == V1)
    except FileFormatError as error:
        raise FileFormatError(error.what, at=path, why=error.why, remedies=error.remedies) from error


def _rest(model: Any, weights: Mapping[str, PackedWeight]) -> dict[str, Tensor]:
    """The weights that stay as they are; of tied ones the first."""
    owned = {f"{path}.{name}" for path in weights for name in ("weight", *PackedLinear.NAMES)} | set(weights)
    for path, name in ((path, name) for path in weights for name in PARTS if path.endswith(f".experts.{name}")):
        owned |= {f"{path.removesuffix(name)}packed_{name}.{part}" for part in PackedLinear.NAMES}
    kept: dict[Any, str] = {}
    for name, tensor in model.state_dict().items():
        if name not in owned:
            kept.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), name)
    state = model.state_dict()
    return {name: state[name] for name in kept.values()}


def _write(model: Any, tensors: Mapping[str, Tensor], config: GptqConfig, folder: Path, shard_bytes: int) -> None:
    write_tensors(tensors, folder, shard_bytes)
    model.config.save_pretrained(folder)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.save_pretrained(folder)
    fields = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))
    fields |= {"architectures": [type(model).__name__], KEY: config.to_json()}
    (folder / MODEL_FILE).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    (folder / FILE).write_text(json.dumps(config.to_json(), indent=2) + "\n", encoding="utf-8")
