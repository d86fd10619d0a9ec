"""Cost of quantizing a random Llama on a CPU: `python -m benchmarks.quantization.peer_speed FOLDER`.

Libraries take turns, each in a process and an environment of its own below FOLDER, with their defaults (4 bits, groups
of 128, symmetric). Seconds of the process are those to compare on a machine that does other things as well.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.quantization.environments import PACKAGES, python_of
from benchmarks.quantization.speed import VOCABULARY, Shape, random_llama

LIBRARIES = ("graphwright", "graphwright-fast", *PACKAGES)
SCRIPTS = Path(__file__).parent / "peers"


def save_tokenizer(folder: str) -> None:
    """Write a tokenizer that some libraries want to see."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({str(i): i for i in range(VOCABULARY)}, unk_token="0"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="2").save_pretrained(folder)


def run(library: str, folder: Path, scratch: str, timeout: int, threads: int) -> str:
    """The line that a library's script tells."""
    library, *form = library.split("-")
    python = Path(sys.executable) if library == "graphwright" else python_of(library, folder)
    arguments = [f"{scratch}/model", f"{scratch}/ids.safetensors", f"{scratch}/out", "4", "128", "1", "plain", *form]
    alone = {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    root = str(SCRIPTS.parents[2]) if library == "graphwright" else ""
    environment = {**os.environ, **alone, "GPTQMODEL_CPU_WORKERS": "2", "PYTHONPATH": root}
    command = [python, SCRIPTS / f"with_{library}.py", *arguments]
    done = subprocess.run(
        command, env=environment, cwd=scratch, capture_output=True, text=True, timeout=timeout, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("COST ")]
    return lines[-1] if lines else f"{library} failed: {done.stderr[-2000:]}"


def main() -> None:
    """Print one line for each library and round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timeout", type=int, default=3600, help="seconds for one run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", type=int, default=Shape.layers)
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=LIBRARIES)
    given = parser.parse_args()
    shape = Shape(layers=given.layers)
    with tempfile.TemporaryDirectory() as scratch:
        random_llama(shape, "cpu", torch.float32).save_pretrained(f"{scratch}/model")
        save_tokenizer(f"{scratch}/model")
        save_file({"ids": torch.randint(0, VOCABULARY, (shape.samples, shape.length))}, f"{scratch}/ids.safetensors")
        for _ in range(given.rounds):
            for library in given.libraries:
                print(run(library, given.folder, scratch, given.timeout, given.threads), flush=True)


if __name__ == "__main__":
    main()
