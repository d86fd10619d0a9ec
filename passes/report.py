"""A trace as one self-contained HTML page that opens from a file."""

from __future__ import annotations

from html import escape

from graphwright.ir.format import format_diff
from graphwright.passes.trace import PassRecord, Trace

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 110rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #8884; }}
th:first-child, td:first-child {{ text-align: left; }}
pre {{ overflow-x: auto; font: 13px/1.5 ui-monospace, monospace; }}
summary {{ cursor: pointer; font-weight: 600; }}
.removed {{ color: #c0392b; }}
.added {{ color: #218c4a; }}
.hunk {{ color: #2471a3; font-weight: 600; }}
</style>
</head>
<body>
<h1>{title}</h1>
<table>
<thead><tr><th>pass</th><th>before</th><th>after</th><th>rewrites</th><th>misses</th><th>ms</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
{sections}
</body>
</html>
"""


def report_html(title: str, trace: Trace) -> str:
    """The page of a trace: a table of the passes, and the grouped diff and misses of each."""
    rows = "\n".join(_row(i, record) for i, record in enumerate(trace.records, 1))
    sections = "\n".join(_section(i, record) for i, record in enumerate(trace.records, 1))
    return _PAGE.format(title=escape(title), rows=rows, sections=sections)


def _row(number: int, record: PassRecord) -> str:
    cells = [len(record.before.nodes), len(record.after.nodes), len(record.rewrites), len(record.misses)]
    values = "".join(f"<td>{cell}</td>" for cell in (*cells, f"{1000 * record.seconds:.1f}"))
    return f'<tr><td><a href="#pass-{number}">{number} {escape(record.name)}</a></td>{values}</tr>'


def _section(number: int, record: PassRecord) -> str:
    opened = " open" if record.changed else ""
    lines = "\n".join(_line(line) for line in format_diff(record.diff, "full").splitlines())
    misses = "".join(f"<li>{escape(line)}</li>" for line in record.miss_lines())
    nearest = f"<p>Nearest misses</p><ol>{misses}</ol>" if misses else ""
    heading = f"{number} {escape(record.name)}"
    return f'<details id="pass-{number}"{opened}><summary>{heading}</summary><pre>{lines}</pre>{nearest}</details>'


def _line(line: str) -> str:
    kind = {"-": "removed", "+": "added", "@": "hunk", "=": "hunk"}.get(line[:1])
    return f'<span class="{kind}">{escape(line)}</span>' if kind else escape(line)
