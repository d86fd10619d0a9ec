"""Environments of their own for the other libraries, made when first asked for."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

TORCH = "torch==2.13.0"
PACKAGES = {
    "llmcompressor": [[TORCH, "llmcompressor==0.14.0.1"]],
    "gptqmodel": [
        [
            TORCH, "transformers==5.23.0", "torchao==0.18.0", "accelerate", "datasets", "threadpoolctl", "Device-SMI",
            "Defuser", "LogBar", "PyPcre", "TokeNicer", "maturin", "ninja", "requests", "optimum", "pillow",
            "hf_transfer", "protobuf", "sentencepiece", "dill", "pyarrow", "setuptools", "wheel", "packaging",
        ],
        ["--no-deps", "--no-build-isolation", "gptqmodel==7.7.0"],
    ],
    "autoround": [[TORCH, "auto-round==0.15.1"]],
    "neuralcompressor": [[TORCH, "transformers==5.23.0", "neural-compressor-pt==3.10", "accelerate"]],
}  # fmt: skip
"""Installation steps by library; gptqmodel asks for a newer torch than it needs, so it is installed without it."""


def python_of(library: str, folder: Path) -> Path:
    """The interpreter of a library's environment below `folder`, installed if it is not there."""
    home = folder / library
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        venv.create(home, with_pip=True, clear=True)
        for step in PACKAGES[library]:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *step], check=True, stdout=sys.stderr)
        (home / "ready").touch()
    return python
