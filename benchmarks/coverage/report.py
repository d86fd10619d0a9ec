"""The table in docs/coverage.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks.coverage.compare import TOLERANCE
from benchmarks.coverage.rows import DONE, EAGER_STATUSES, NOT_CAPTURED, Row

_INTRODUCTION = f"""# Coverage

Every architecture of transformers, with random weights and a config made as small as it goes: captured, optimised with
the default pipeline, and compared with the unmodified model. Made by

    python -m benchmarks.coverage                      # goes on where an earlier run stopped
    python -m benchmarks.coverage --only bert,gpt2 --fresh

What the columns say:

- **captured**: whether `graphwright.capture(model)` gives a program from inputs that it makes up itself, and which
  dimensions are dynamic.
- **attention**: softmaxes between two products of activations, found by structure and not by the passes under test
  (the softmax of a router or a gate is none), and how many of them are fused.
- **difference**: the largest difference from the original in any result, relative to its largest value. Original and
  program both run in float64 throughout, upcasts to float32 included, with weights five times their initial size; with
  no, right, left and scattered padding where there is an attention mask, with batch 1, and at other sizes. Padded
  positions and values that are undefined in the original do not count. Above {TOLERANCE:g} is **wrong**: rounding stays
  below it, and a wrong mask, scale or head is far above.
"""

_KEPT = ". A row of an earlier run stays until its architecture is examined afresh."


def write_report(path: Path, rows: Sequence[Row]) -> None:
    """Write the table of `rows`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    scratch.write_text("\n".join(_report(sorted(rows, key=lambda row: row.key))) + "\n")
    scratch.replace(path)


def _versions(rows: Iterable[Row]) -> str:
    """How many rows were made with which versions."""
    counts = Counter(row.versions or "versions that were not recorded" for row in rows)
    return "Rows made with " + "; with ".join(f"{name}: {count}" for name, count in counts.most_common()) + _KEPT


def _report(rows: Sequence[Row]) -> Iterator[str]:
    yield _INTRODUCTION
    yield _versions(rows)
    yield ""
    yield from _totals(rows)
    wrong = [row for row in rows if row.wrong]
    if wrong:
        yield from ("## Wrong", "")
        yield from (
            f"- {row.key}: " + "; ".join(f"{case}: {text}" for case, text in row.wrong.items()) for row in wrong
        )
        yield ""
    yield from ("## Not fused", "")
    yield from _groups((miss.reason, row.key, miss.site) for row in rows for miss in row.misses)
    yield from ("## Not captured", "")
    yield from _groups((row.reason, row.key, "") for row in rows if row.status == NOT_CAPTURED)
    yield from ("## Architectures", "")
    yield from _table(row for row in rows if row.status in EAGER_STATUSES)
    yield from (
        "",
        "## Not examined",
        "",
        "These could not be built small, or need inputs that a config does not tell.",
        "",
    )
    yield from _groups((f"{row.status}: {row.reason}", row.key, "") for row in rows if row.status not in EAGER_STATUSES)


def _totals(rows: Sequence[Row]) -> Iterator[str]:
    eager = [row for row in rows if row.status in EAGER_STATUSES]
    captured = [row for row in eager if row.nodes != (0, 0) or row.status == DONE]
    attentions, fused = sum(row.attentions for row in rows), sum(row.fused for row in rows)
    with_attention = [row for row in rows if row.attentions]
    complete = [row for row in with_attention if row.fused == row.attentions]
    yield from ("| | |", "|---|---:|")
    yield f"| model types | {len({row.model_type for row in eager})} |"
    yield f"| architectures that run | {len(eager)} |"
    yield f"| captured | {len(captured)} ({_percent(len(captured), len(eager))}) |"
    yield f"| attentions | {attentions} |"
    yield f"| fused | {fused} ({_percent(fused, attentions)}) |"
    yield f"| of these as `graphwright::attention` | {sum(row.own for row in rows)} |"
    yield f"| already one op in the model | {sum(row.native for row in rows)} |"
    yield f"| architectures with all attention fused | {len(complete)} of {len(with_attention)} |"
    yield f"| compared with the original | {sum(bool(row.differences) for row in rows)} |"
    yield f"| wrong | {sum(bool(row.wrong) for row in rows)} |"
    yield f"| not examined | {len(rows) - len(eager)} |"
    yield ""


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _groups(found: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    """Reasons, most frequent first, each with the architectures and one place."""
    found = list(found)
    counts = Counter(_general(reason) for reason, _, _ in found)
    for general, count in counts.most_common():
        members = [item for item in found if _general(item[0]) == general]
        names = sorted({key for _, key, _ in members})
        example = f", such as `{members[0][2]}`" if members[0][2] else ""
        yield f"- {count} x {_cell(members[0][0])}{example}: {', '.join(names[:6])}{' ...' if len(names) > 6 else ''}"
    if not found:
        yield "None."
    yield ""


def _general(reason: str) -> str:
    """A reason without the names of nodes, lines and numbers."""
    words = [word for word in reason.split() if not word.startswith(("%", "("))]
    return "".join(letter for letter in " ".join(words) if not letter.isdigit())[:120]


def _table(rows: Iterable[Row]) -> Iterator[str]:
    yield "| model type | class | captured | attention | difference | seconds | remarks |"
    yield "|---|---|---|---:|---:|---:|---|"
    for row in rows:
        captured = row.status if row.status != DONE else ", ".join(row.dims) or "static"
        attention = f"{row.fused}/{row.attentions}" if row.attentions else f"{row.native} native" if row.native else "-"
        difference = f"{row.worst:.0e}" if row.differences else "-"
        seconds = sum(row.seconds.values())
        yield (
            f"| {row.model_type} | {row.class_name} | {captured} | {attention} | {difference} | {seconds:.0f} "
            f"| {_cell(_remarks(row))} |"
        )


def _remarks(row: Row) -> str:
    remarks = [row.reason] if row.reason else []
    remarks += [f"wrong with {case}: {text}" for case, text in row.wrong.items()]
    remarks += [miss.reason for miss in row.misses[:1]]
    remarks += [f"refuses {case}" for case in row.refused]
    return "; ".join(remarks)


def _cell(text: str) -> str:
    """Text for a table cell: one line, no paths of this machine."""
    words = [word.rsplit("/site-packages/", 1)[-1] for word in text.replace("|", "/").split()]
    text = " ".join(words)
    return text if len(text) <= 160 else text[:157] + "..."
