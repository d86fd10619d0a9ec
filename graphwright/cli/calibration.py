"""Calibration data for the command line: text from a file, as tokens of the model's own tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from graphwright.ir.errors import FileFormatError, InputError


def token_batches(file: Path, tokenizer: Any, samples: int, length: int, batch: int = 8) -> list[dict[str, Any]]:
    """Batches of `input_ids` and `attention_mask` [batch, length].

    Args:
        file: `.txt`, or `.jsonl` with a text in the field `text` of each line.
        tokenizer: Of the model.
        samples: Largest number of rows; they are spread over the whole text.
        length: Tokens of a row.
        batch: Rows of a batch.

    Raises:
        FileFormatError: The file cannot be read, or a line of it is not JSON with a text.
        InputError: The text has fewer tokens than one row.
    """
    tokens = torch.tensor(tokenizer(_text(file), add_special_tokens=False)["input_ids"])
    count = min(samples, tokens.numel() // length)
    if count < 1:
        raise InputError(f"{file} has {tokens.numel()} tokens, a row takes {length}", remedies=["use a longer text"])
    starts = [i * (tokens.numel() - length) // max(count - 1, 1) for i in range(count)]
    rows = torch.stack([tokens[start : start + length] for start in starts])
    return [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in rows.split(batch)]


def _text(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileFormatError("cannot read the calibration text", at=str(file), why=str(error)) from error
    if file.suffix != ".jsonl":
        return text
    return "\n".join(_line(file, i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip())


def _line(file: Path, number: int, line: str) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError("a line holds no text", at=f"{file}:{number}", why='not {"text": ...}') from error
    if not isinstance(text, str):
        raise FileFormatError("a line holds no text", at=f"{file}:{number}", why=f"its text is {text!r}")
    return text
