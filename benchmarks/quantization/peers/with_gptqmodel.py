"""Quantize with gptqmodel, in an environment of its own: MODEL IDS OUT BITS GROUP SYMMETRIC VARIANT.

`mse` searches scales by a p-norm and orders inputs within groups (for one scale per output, which it cannot combine
with that, by activations); `act` orders all by activations; `gptaq` and `foem` are its two extensions, with `mse`.
With `plain`, its defaults, only the cost is told.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
from cost import cost
from gptqmodel import GPTQModel, QuantizeConfig
from gptqmodel.quantization.config import FOEMConfig, GPTAQConfig
from safetensors.torch import load_file, save_file


def unpack(words: torch.Tensor, bits: int) -> torch.Tensor:
    """The codes of int32 words along the first axis, a little-endian string of bits per column."""
    digits = (words.long()[:, None] >> torch.arange(32)[None, :, None] & 1).flatten(0, 1)
    powers = (1 << torch.arange(bits))[None, :, None]
    return (digits.view(-1, bits, words.shape[1]) * powers).sum(1)


def weight(tensors: dict[str, torch.Tensor], path: str, bits: int, version: int) -> torch.Tensor:
    """The float weight [outputs, inputs] of a layer of a checkpoint."""
    codes = unpack(tensors[f"{path}.qweight"], bits)
    zeros = unpack(tensors[f"{path}.qzeros"].T.contiguous(), bits).T
    zeros = (zeros + (version == 1)) & (2**bits - 1)
    group = tensors[f"{path}.g_idx"].long()
    return ((codes - zeros[group]) * tensors[f"{path}.scales"].float()[group]).T.contiguous()


def config(bits: int, group: int, symmetric: bool, variant: str) -> QuantizeConfig:
    """Its options."""
    by_activation = group <= 0 or variant == "act"
    extension = {"gptaq": GPTAQConfig, "foem": FOEMConfig}.get(variant)
    return QuantizeConfig(
        bits=bits, group_size=group if group > 0 else -1, sym=symmetric, mse=0.0 if variant == "plain" else 2.4,
        act_group_aware=not by_activation, desc_act=by_activation, **({variant: extension()} if extension else {}),
    )  # fmt: skip


def main() -> None:
    """Quantize, save, read back."""
    model_path, ids_path, out, bits, group, symmetric, variant = sys.argv[1:]
    options = config(int(bits), int(group), symmetric == "1", variant)
    rows = load_file(ids_path)["ids"]
    model = GPTQModel.load(model_path, options, device="cpu", dtype=torch.float32)
    batches = [{"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in rows]
    with cost("gptqmodel"):
        model.quantize(batches, batch_size=8)
    if variant == "plain":
        return
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        tensors = {k: v for file in Path(folder).glob("*.safetensors") for k, v in load_file(file).items()}
        described = json.loads((Path(folder) / "quantize_config.json").read_text())
    version = 2 if "gptq_v2" in (described.get("checkpoint_format"), described.get("format")) else 1
    paths = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    save_file({path: weight(tensors, path, int(bits), version) for path in paths}, out)


if __name__ == "__main__":
    main()
