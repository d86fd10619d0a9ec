"""The report of a quantization: one row per linear, the model's quality, and a plot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from graphwright.passes.quant.codes import QuantizedLinear
from graphwright.passes.quant.evaluate import Quality

_STYLE = (
    "body{font:14px system-ui,sans-serif;margin:2em;max-width:70em}td,th{padding:.2em .8em;text-align:right}"
    "td:first-child,th:first-child{text-align:left}tr:nth-child(even){background:#f4f4f4}"
    "rect.a{fill:#4878a8}rect.b{fill:#d8dee6}text{font:11px system-ui,sans-serif}"
)


@dataclass(frozen=True)
class Row:
    """One linear: its bits, and the relative error of its output, also of plain rounding on the same grid."""

    path: str
    bits: int
    group_size: int
    error: float
    rtn_error: float
    damping: float


@dataclass(frozen=True)
class Report:
    """What a quantization did.

    Args:
        rows: One per linear, in graph order.
        quality: The model's on held-out text, None if there was none.
        seconds: Time it took.
    """

    rows: tuple[Row, ...]
    quality: Quality | None = None
    seconds: float = 0.0

    @staticmethod
    def of(results: Mapping[str, QuantizedLinear], quality: Quality | None = None, seconds: float = 0.0) -> Report:
        """The report of quantized linears by path."""
        rows = (
            Row(path, item.bits, item.group_size, item.error or 0.0, item.rtn_error or 0.0, item.damping)
            for path, item in results.items()
        )
        return Report(tuple(rows), quality, seconds)

    @property
    def error(self) -> float:
        """Root mean square of the linears' relative errors."""
        return (sum(row.error**2 for row in self.rows) / max(1, len(self.rows))) ** 0.5

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return {"error": self.error, **asdict(self)}

    def save(self, folder: Path) -> None:
        """Write `report.json` and `report.html`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").write_text(json.dumps(self.to_json(), indent=2), encoding="utf-8")
        (folder / "report.html").write_text(self.to_html(), encoding="utf-8")

    def to_html(self) -> str:
        """One self-contained page with a bar per linear."""
        facts = [f"{len(self.rows)} linears in {self.seconds:.1f} s, relative error {self.error:.4f}"]
        if self.quality is not None:
            q = self.quality
            facts.append(f"KL {q.kl:.5f}, perplexity {q.perplexity:.3f} (float {q.float_perplexity:.3f})")
            facts.append(f"same most likely token: {q.agreement:.1%} of {q.tokens}")
        head = "".join(f"<th>{name}</th>" for name in ("linear", "bits", "group", "error", "rounded", "damping"))
        body = "".join(_table_row(row) for row in self.rows)
        lines = "".join(f"<p>{escape(fact)}</p>" for fact in facts)
        return (
            f'<!doctype html><meta charset="utf-8"><title>Quantization</title><style>{_STYLE}</style>'
            f"<h1>Quantization</h1>{lines}{self.to_svg()}<table><tr>{head}</tr>{body}</table>"
        )

    def to_svg(self) -> str:
        """Bars of the relative error by linear; behind them, that of plain rounding."""
        if not self.rows:
            return "<svg/>"
        top = max(max(row.error, row.rtn_error) for row in self.rows) or 1.0
        bars = "".join(_bars(i, row, top) for i, row in enumerate(self.rows))
        return f'<svg width="900" height="{16 * len(self.rows) + 8}" role="img">{bars}</svg>'


def _bars(position: int, row: Row, top: float) -> str:
    y = 16 * position + 4
    rects = "".join(
        f'<rect class="{kind}" x="320" y="{y}" width="{480 * value / top:.1f}" height="11"/>'
        for kind, value in (("b", row.rtn_error), ("a", row.error))
    )
    label = f'<text x="312" y="{y + 10}" text-anchor="end">{escape(row.path)}</text>'
    end = 326 + 480 * max(row.error, row.rtn_error) / top
    return f'{label}{rects}<text x="{end:.1f}" y="{y + 10}">{row.error:.4f}</text>'


def _table_row(row: Row) -> str:
    cells = (escape(row.path), row.bits, row.group_size, f"{row.error:.5f}", f"{row.rtn_error:.5f}", row.damping)
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
