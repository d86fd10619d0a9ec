"""The results of runs as a table in Markdown: mean divergences, and ours in relation to the best of the others."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping

from benchmarks.quantization.runs import OURS, SETTINGS, VARIANTS, Run

NAMES = {
    "llmcompressor": "llm-compressor 0.14",
    "gptqmodel": "gptqmodel 7.7",
    "neuralcompressor": "Neural Compressor 3.10",
    "autoround": "AutoRound 0.15",
}
Found = Mapping[tuple[str, str], list[float]]


def table(results: Iterable[tuple[Run, float]]) -> str:
    """One line for each setting; of each library the variant with the least mean, by name."""
    settings: dict[tuple, dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    for run, kl in results:
        settings[run.bits, run.group, run.symmetric][run.library, run.variant].append(kl)
    head = ["bits, group", "rounding", *NAMES.values(), "quantize-gptq", "to the best", "`curvature`", "to the best"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(line(setting, settings[setting]) for setting in SETTINGS if setting in settings)])


def line(setting: tuple[int, int, bool], found: Found) -> str:
    """A line of the table."""
    bits, group, symmetric = setting
    best = {library: _best(found, library) for library in NAMES}
    least = min((mean for _, mean in best.values()), default=float("nan"))
    cells = [
        f"{bits}, {group or 'per output'}, {'symmetric' if symmetric else 'asymmetric'}",
        _number(found.get(("rounding", ""), [])),
        *(f"{mean:.5f} ({variant})" if variant else "" for variant, mean in best.values()),
    ]
    for own in (found.get((library, ""), []) for library in OURS):
        cells += (
            [f"{_number(own)} ({min(own):.5f} to {max(own):.5f})", f"{statistics.mean(own) / least:.2f}"]
            if own
            else ["", ""]
        )
    return f"| {' | '.join(cells)} |"


def _best(found: Found, library: str) -> tuple[str, float]:
    means = [(v, statistics.mean(found[library, v])) for v in VARIANTS[library] if found.get((library, v))]
    return min(means, key=lambda item: item[1], default=("", float("inf")))


def _number(values: list[float]) -> str:
    return f"{statistics.mean(values):.5f}" if values else ""
