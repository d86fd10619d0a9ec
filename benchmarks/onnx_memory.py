"""Peak memory of an ONNX export beside the size of the weights: `python -m benchmarks.onnx_memory [HIDDEN LAYERS]`.

A Llama of some 3 GB with random weights is built, exported without verification, and saved. The peak is that of the
process from before the model is built, so the weights themselves are in it; what Python and torch take before is
subtracted.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from pathlib import Path

from benchmarks.measurement import Measurement

HIDDEN, LAYERS = 2048, 14
LIMIT = 1.2


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def warm_up() -> None:
    """Import everything and run one tiny export, so that only what grows with the model is measured."""
    with tempfile.TemporaryDirectory() as folder:
        run(llama(64, 1, 128), Path(folder) / "out")


def llama(hidden: int, layers: int, vocabulary: int = 32000):
    """A Llama with tied embeddings."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3 // 64 * 64 or 64,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(hidden // 256, 1),
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def run(model, folder: Path) -> int:
    """Export and save; gives the bytes written."""
    import graphwright as gw

    gw.export(model, folder, "onnx", task="text-generation-with-past", verify=False)
    return sum(path.stat().st_size for path in folder.iterdir())


def main(hidden: int = HIDDEN, layers: int = LAYERS) -> Measurement:
    """Measure one export."""
    warm_up()
    before = peak_bytes()
    model = llama(hidden, layers)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        written = run(model, Path(folder) / "out")
    peak = peak_bytes() - before
    sizes = {"weights": weights, "peak": peak, "files": written, "before": before}
    detail = ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in sizes.items())
    return Measurement("peak memory of an ONNX export / weights", peak / weights, LIMIT, detail)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:])).print()
