"""`load_gptq`: a GPTQ checkpoint as a transformers model, with nothing but torch and transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphwright.frontends.gptq.config import V1, GptqConfig
from graphwright.frontends.gptq.experts import is_experts, join_experts, model_name, place_experts
from graphwright.frontends.gptq.folder import Tensors
from graphwright.frontends.gptq.module import PackedLinear
from graphwright.frontends.gptq.tensors import NAMES, from_tensors, stored_zeros
from graphwright.ir.errors import FileFormatError
from graphwright.ir.packed import PackedWeight

_MARK = ".qweight"


def load_gptq(folder: str | Path, *, dtype: torch.dtype | None = None) -> Any:
    """A transformers model from a GPTQ checkpoint; its quantized layers are `PackedLinear`.

    Args:
        folder: Holds `config.json` and the weights (one file or shards), and often `quantize_config.json`.
        dtype: Of activations and of the weights that are not quantized; by default the checkpoint's own.

    Returns:
        The model of the class that the config names, in evaluation mode.

    Raises:
        FileFormatError: A file is missing, truncated, or inconsistent with the others; names file and tensor.
    """
    folder = Path(folder)
    stored = read_gptq(folder)
    tensors = Tensors(folder)
    model = _model(folder, dtype)
    placed = []
    for path, packed in join_experts(model, stored).items():
        if is_experts(model, path):
            placed.append(place_experts(model, path, packed))
        else:
            _place(model, path, packed, tensors.get(f"{path}.bias"), folder)
            placed.append(path)
    owned = {f"{path}.{name}" for path in stored for name in (*NAMES, "bias")}
    _load_rest(model, {model_name(model, name): tensors[name] for name in tensors if name not in owned}, placed, folder)
    return model.eval()


def read_gptq(folder: str | Path) -> dict[str, PackedWeight]:
    """The packed weights of a checkpoint by module path.

    Whether zeros are stored less one is told by the zeros themselves where all are the same, otherwise by the label.

    Raises:
        FileFormatError: As `load_gptq`.
    """
    folder = Path(folder)
    config, tensors = GptqConfig.read(folder), Tensors(folder)
    paths = [name.removesuffix(_MARK) for name in tensors if name.endswith(_MARK)]
    if not paths:
        raise FileFormatError("the checkpoint has no quantized linear", at=str(folder), why="no tensor is a qweight")
    less_one = _is_less_one(config, tensors, paths)
    return {path: _packed(config, tensors, path, less_one) for path in paths}


def _packed(config: GptqConfig, tensors: Tensors, path: str, less_one: bool) -> PackedWeight:
    parts = {name: tensors[f"{path}.{name}"] for name in NAMES if f"{path}.{name}" in tensors}
    try:
        return from_tensors(parts, config.group_size, less_one=less_one, carries=config.carries)
    except FileFormatError as error:
        place = f"{path} in {tensors.folder}"
        raise FileFormatError(error.what, at=place, why=error.why, remedies=error.remedies) from error


def _is_less_one(config: GptqConfig, tensors: Tensors, paths: list[str]) -> bool:
    """Whether stored zeros are one less than the zeros: symmetric ones say so themselves."""
    labelled = config.checkpoint_format == V1
    if not config.sym:
        return labelled
    found = {_only_offset(tensors, path) for path in paths}
    return found == {-1} if found in ({-1}, {0}) else labelled


def _only_offset(tensors: Tensors, path: str) -> int | None:
    """Distance of all stored zeros of a module from the middle code, None where they differ."""
    words, scales = tensors.get(f"{path}.qzeros"), tensors.get(f"{path}.scales")
    if words is None or scales is None or words.dim() != 2 or scales.dim() != 2 or words.dtype != torch.int32:
        return None
    bits = words.shape[1] * 32 // max(scales.shape[1], 1)
    if bits not in (2, 3, 4, 8):
        return None
    first, last = stored_zeros(words, bits, scales.shape[1]).aminmax()
    return int(first) - 2 ** (bits - 1) if int(first) == int(last) else None


def _model(folder: Path, dtype: torch.dtype | None) -> Any:
    """The model without its weights: their memory is not touched."""
    import transformers
    from transformers.initialization import no_init_weights

    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        cls = getattr(transformers, (config.architectures or ["AutoModel"])[0])
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise FileFormatError("transformers does not know the model", at=str(folder), why=str(error).strip()) from error
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with no_init_weights():
        return cls._from_config(config, dtype=dtype or config.dtype or torch.float32)


def _place(model: nn.Module, path: str, packed: PackedWeight, bias: Tensor | None, folder: Path) -> None:
    """Put a packed linear where the model has a linear of its size."""
    parent, _, name = path.rpartition(".")
    try:
        old = model.get_submodule(path)
    except AttributeError as error:
        raise FileFormatError(f"the model has no module '{path}'", at=str(folder), why=str(error)) from error
    weight = getattr(old, "weight", None)
    sizes = (packed.scales.shape[0], packed.inputs)
    transposed = type(old).__name__ == "Conv1D"
    if not isinstance(weight, Tensor) or tuple(weight.shape[::-1] if transposed else weight.shape) != sizes:
        have = tuple(weight.shape) if isinstance(weight, Tensor) else type(old).__name__
        raise FileFormatError(f"the weight of '{path}' has another size", at=str(folder), why=f"{have}, not {sizes}")
    if (getattr(old, "bias", None) is None) != (bias is None):
        raise FileFormatError(f"the bias of '{path}' is missing, or is not in the model", at=str(folder))
    setattr(model.get_submodule(parent), name, PackedLinear(packed, None if bias is None else bias.to(weight.dtype)))


def _load_rest(model: Any, rest: Mapping[str, Tensor], paths: Sequence[str], folder: Path) -> None:
    """Fill in the weights that are not quantized; tied ones may be absent."""
    placed = tuple(f"{path}." for path in paths)
    result = model.load_state_dict(rest, strict=False)
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    missing = [name for name in result.missing_keys if not name.startswith(placed) and name not in tied]
    if missing or result.unexpected_keys:
        lacking = f"missing {missing[:3]}, unknown {result.unexpected_keys[:3]}"
        raise FileFormatError("the tensors of the checkpoint are not those of its model", at=str(folder), why=lacking)
    model.tie_weights()
