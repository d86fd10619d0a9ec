"""The table of architectures and targets as a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.targets.models import NAMES
from benchmarks.targets.rows import FAILED, LEGAL, REJECTED, VERIFIED, WRONG, Row, Rows

MARKS = {VERIFIED: "✓", LEGAL: "legal", REJECTED: "rejected", WRONG: "**differs**", FAILED: "**fails**"}

_HEAD = """# Targets

| target | what it makes | what runs it here | page |
|---|---|---|---|
| `eager` | a callable on PyTorch | PyTorch | [eager](eager.md) |
| `onnx` | ONNX | ONNX Runtime | [onnx](onnx.md) |
| `openvino` | OpenVINO IR | OpenVINO's CPU plugin | [openvino](openvino.md) |
| `tflite` | TFLite flatbuffers | LiteRT's interpreter | [tflite](tflite.md) |
| `neuron` | StableHLO and HLO for AWS Neuron | XLA on a CPU, not `neuronx-cc` | [neuron](neuron.md) |
| `hpu` | FX modules of Gaudi's operators | reference kernels of the published schemas | [hpu](hpu.md) |
| `furiosa` | ExportedPrograms for RNGD | PyTorch; the vendor's compiler apart, see the page | [furiosa](furiosa.md) |

Packages of others add targets: [writing a target](../writing-a-target.md).

## What each target takes

Tiny models of transformers with random weights, twice their initial size; made by

    python -m benchmarks.targets                          # goes on where an earlier run stopped
    python -m benchmarks.targets --only bert/BertModel --targets onnx,furiosa --fresh

- **number**: lowered with the target's defaults, run by what the table above names, and compared with the unmodified
  model; the number is the largest absolute difference in any output (random weights make some outputs very large, as
  ResNet's). Compared at several sizes, and with right, left and scattered padding where there is a mask; a difference
  up to 2e-4 of an output's largest value is allowed. Targets of fixed sizes are lowered for the captured ones, and
  smaller inputs are padded.
- **legal**: emitted, every call has passed the target's own check, and nothing here can run it.
- **rejected**: the target says that it cannot express some call; the reasons are below.
- **differs**, **fails**: a defect; what happened is below.

`+cache` is one step of a decoder with the keys and values of earlier tokens among its inputs.
"""


def write_report(path: Path, rows: Rows) -> None:
    """Write the page."""
    path.write_text("\n".join([_HEAD, *_lines(rows)]) + "\n", encoding="utf-8")


def _lines(rows: Rows) -> Iterator[str]:
    targets = sorted({target for _, target in rows})
    models = [name for name in NAMES if any(model == name for model, _ in rows)]
    versions = Counter(row.versions for row in rows.values() if row.versions)
    yield f"{len(models)} architectures; made with {', '.join(versions)}.\n"
    yield "| architecture | " + " | ".join(targets) + " |"
    yield "|---|" + "---|" * len(targets)
    for model in models:
        yield f"| {model} | " + " | ".join(_cell(rows.get((model, target))) for target in targets) + " |"
    counts = {target: Counter(row.status for row in rows.values() if row.target == target) for target in targets}
    yield "| **verified** | " + " | ".join(f"{counts[t][VERIFIED]} of {counts[t].total()}" for t in targets) + " |"
    for status, title in ((REJECTED, "Rejected"), (LEGAL, "Not run"), (WRONG, "Differs"), (FAILED, "Fails")):
        found = [row for row in rows.values() if row.status == status]
        if found:
            yield f"\n## {title}\n"
            yield from (_reason(row) for row in sorted(found, key=lambda row: (row.target, row.model)))


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    return f"{row.difference:.1g}" if row.status == VERIFIED else MARKS[row.status]


def _reason(row: Row) -> str:
    number = f", {row.difference:.1e}" if row.status == WRONG else ""
    return f"- `{row.target}`, {row.model}{number}: {row.reason}"
