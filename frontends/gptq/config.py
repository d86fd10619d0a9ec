"""What `quantize_config.json` and `config.json` say about a GPTQ checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphwright.ir.errors import FileFormatError

FILE, MODEL_FILE, KEY = "quantize_config.json", "config.json", "quantization_config"
V1, V2 = "gptq", "gptq_v2"
BITS = (2, 3, 4, 8)


@dataclass(frozen=True)
class GptqConfig:
    """Settings of a checkpoint; what its tensors tell for themselves is read from them.

    Args:
        bits: Bits of a code where a module does not differ.
        group_size: Inputs of a group; -1 for one group per output.
        desc_act: Whether columns were quantized by falling importance, so that `g_idx` is scattered.
        sym: Whether all zeros are the middle code.
        checkpoint_format: `gptq` (v1: stored zeros are one less) or `gptq_v2`.
        lm_head: Whether the output projection is quantized too.
        meta: How it was made, for the record.
    """

    bits: int = 4
    group_size: int = 128
    desc_act: bool = False
    sym: bool = True
    checkpoint_format: str = V1
    lm_head: bool = False
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def carries(self) -> bool:
        """Whether v1 zeros were made by a subtraction on whole words, which borrows from the next field."""
        return "gptqmodel" in str(self.meta.get("quantizer", ""))

    def to_json(self) -> dict[str, Any]:
        """The fields under the names that other readers expect."""
        fields = {name: getattr(self, name) for name in ("bits", "group_size", "desc_act", "sym", "lm_head")}
        formats = {"checkpoint_format": self.checkpoint_format, "format": self.checkpoint_format}
        return fields | {"quant_method": "gptq", **formats, "pack_dtype": "int32", "meta": dict(self.meta)}

    @staticmethod
    def read(folder: Path) -> GptqConfig:
        """The settings of a checkpoint.

        Raises:
            FileFormatError: Neither file has them, or they are not of a GPTQ checkpoint that can be read.
        """
        path = folder / FILE
        fields = read_json(path) if path.exists() else read_json(folder / MODEL_FILE).get(KEY)
        if not isinstance(fields, dict):
            raise FileFormatError("this folder holds no quantized model", at=str(folder), why=f"no {FILE}, no {KEY}")
        return _parsed(fields, path if path.exists() else folder / MODEL_FILE)


def is_gptq(folder: Path) -> bool:
    """Whether a folder says that it holds a GPTQ checkpoint."""
    if not (folder / MODEL_FILE).exists():
        return False
    fields = read_json(folder / MODEL_FILE).get(KEY)
    return (folder / FILE).exists() or (isinstance(fields, dict) and fields.get("quant_method") == "gptq")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        FileFormatError: The file is missing, damaged, or holds something else.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileFormatError("cannot read the file", at=str(path), why=str(error)) from error
    if not isinstance(fields, dict):
        raise FileFormatError("the file holds no JSON object", at=str(path))
    return fields


def _parsed(fields: Mapping[str, Any], path: Path) -> GptqConfig:
    method = fields.get("quant_method", "gptq")
    layout = fields.get("checkpoint_format") or fields.get("format") or V1
    if method != "gptq" or layout not in (V1, V2):
        raise FileFormatError(
            f"cannot read a checkpoint of method '{method}' in the format '{layout}'",
            at=str(path),
            remedies=[f"convert it to '{V1}' or '{V2}' with the tool that made it"],
        )
    bits, size = fields.get("bits"), fields.get("group_size", -1)
    if bits not in BITS or not isinstance(size, int) or (size < 1 and size != -1):
        raise FileFormatError(
            f"cannot read codes of {bits!r} bits in groups of {size!r}", at=str(path), why=f"known are {BITS} bits"
        )
    flags = {name: bool(fields.get(name, default)) for name, default in _FLAGS.items()}
    meta = fields.get("meta")
    return GptqConfig(bits, size, checkpoint_format=layout, meta=meta if isinstance(meta, dict) else {}, **flags)


_FLAGS = {"desc_act": False, "sym": True, "lm_head": False}
