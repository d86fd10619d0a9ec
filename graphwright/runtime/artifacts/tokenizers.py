"""Tokenizers beside an exported model: its own files, and for OpenVINO as models."""

from __future__ import annotations

import importlib.util
import logging
import shutil
from pathlib import Path
from typing import Any

logger = logging.getLogger("graphwright")

FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "tokenizer.model", "spiece.model", "preprocessor_config.json", "chat_template.jinja",
)  # fmt: skip
"""What transformers' tokenizers and processors are read from."""


def save_tokenizer(model: Any, folder: Path, target: str) -> None:
    """Copy the tokenizer of a model that was loaded from a folder; for OpenVINO also write it as models.

    `openvino_tokenizer.xml` and `openvino_detokenizer.xml` need `openvino-tokenizers`; without it, or for a tokenizer
    that it cannot convert, a line in the log says so.

    Args:
        model: A transformers model.
        folder: Where to.
        target: Name of the target.
    """
    source = Path(str(getattr(model, "name_or_path", "") or ""))
    if not source.is_dir() or not str(getattr(model, "name_or_path", "")):
        return
    found = [source / name for name in FILES if (source / name).is_file()]
    for file in found:
        shutil.copyfile(file, folder / file.name)
    if target == "openvino" and any(file.name.startswith(("tokenizer", "vocab", "spiece")) for file in found):
        _as_models(source, folder)


def _as_models(source: Path, folder: Path) -> None:
    if importlib.util.find_spec("openvino_tokenizers") is None:
        logger.info("the tokenizer was not written as a model: pip install openvino-tokenizers")
        return
    import openvino
    import openvino_tokenizers
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
        pair = openvino_tokenizers.convert_tokenizer(tokenizer, with_detokenizer=True)
    except Exception as error:  # whatever a tokenizer of another kind provokes in the converter
        logger.warning("the tokenizer was not written as a model: %s", str(error).strip().splitlines()[0])
        return
    for converted, name in zip(pair, ("openvino_tokenizer.xml", "openvino_detokenizer.xml"), strict=True):
        openvino.save_model(converted, folder / name)
