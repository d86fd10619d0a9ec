"""Converts the models of `tflite_models` with litert-torch; run in an environment of its own.

python -m venv /tmp/litert && /tmp/litert/bin/pip install litert-torch torch==2.13.0 transformers==5.23.0
/tmp/litert/bin/python benchmarks/tflite_reference.py OUT [MODEL ...]
"""

from __future__ import annotations

import sys
from pathlib import Path

import litert_torch

sys.path.insert(0, str(Path(__file__).parent))
from tflite_models import MODELS, Tensors, build


def main():
    folder, *names = sys.argv[1:]
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in names or MODELS:
        model, inputs = build(name)
        converted = litert_torch.convert(Tensors(model).eval(), sample_kwargs=inputs)
        converted.export(str(Path(folder) / f"{name}.tflite"))
        print(name, flush=True)


if __name__ == "__main__":
    main()
