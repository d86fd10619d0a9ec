"""Tokens to train, calibrate and score with: `python -m benchmarks.quantization.decoder.corpus DOWNLOADS OUT`.

Writes `training.safetensors`, `calibration.safetensors`, `heldout.safetensors` (one tensor `tokens` each) and a
tokenizer. Calibration and held-out text are blocks of public-domain text that are left out of training.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from benchmarks.quantization.decoder.sources import SOURCES

VOCABULARY = 4096
BLOCK = 20_000  # characters
EVERY = 20  # of so many blocks of public-domain text one is held out, and one is for calibration
END = "<|end|>"


def split(texts: list[tuple[str, bool]]) -> dict[str, list[str]]:
    """Blocks by use.

    Args:
        texts: Each with whether it is in the public domain.
    """
    parts: dict[str, list[str]] = {"training": [], "calibration": [], "heldout": []}
    for text, public_domain in texts:
        for i, start in enumerate(range(0, len(text), BLOCK)):
            name = {0: "heldout", EVERY // 2: "calibration"}.get(i % EVERY, "training") if public_domain else "training"
            parts[name].append(text[start : start + BLOCK])
    return parts


def train_tokenizer(blocks: list[str]) -> Tokenizer:
    """Byte-level pairs."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(blocks, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, blocks: list[str]) -> torch.Tensor:
    """All tokens in a row, int16."""
    return torch.cat([torch.tensor(item.ids, dtype=torch.int16) for item in tokenizer.encode_batch(blocks)])


def main() -> None:
    """Download, split, train the tokenizer on the training text, encode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("downloads", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    parts = split([(source.text(given.downloads), source.public_domain) for source in SOURCES])
    tokenizer = train_tokenizer(parts["training"][::4])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END).save_pretrained(given.out)
    for name, blocks in parts.items():
        tokens = encode(tokenizer, blocks)
        save_file({"tokens": tokens}, given.out / f"{name}.safetensors")
        print(f"{name}: {sum(map(len, blocks)) / 1e6:.1f} M characters, {len(tokens) / 1e6:.2f} M tokens")


if __name__ == "__main__":
    main()
