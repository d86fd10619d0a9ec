"""One rewrite as a Graphviz picture: what it removed beside what it added. Writing it does not need Graphviz."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from graphwright.ir.format import format_call
from graphwright.ir.record import NodeRecord, Rewrite

_HEAD = """digraph rewrite {
  rankdir=TB; fontname="Helvetica"; labelloc=t; label=%s;
  node [shape=box, style="rounded,filled", fontname="Helvetica", fontsize=11, fillcolor=white];
"""


def to_dot(rewrite: Rewrite) -> str:
    """Graphviz text of one site: clusters `before` and `after`, the values they share, and what replaces what."""
    title = "  ".join(part for part in (rewrite.rule, rewrite.site, rewrite.source) if part)
    lines = [_HEAD % quote(title)]
    names = {"before": {r.name for r in rewrite.removed}, "after": {r.name for r in rewrite.added}}
    lines += _cluster("before", rewrite.removed, "#fdeceb")
    lines += _cluster("after", rewrite.added, "#e6f6ea")
    lines += _shared(rewrite, names["before"], names["after"])
    for old, new in rewrite.replaced:
        if old in names["before"] and new in names["after"]:
            style = '[style=dashed, constraint=false, label="is now"]'
            lines.append(f"  {_id('before', old)} -> {_id('after', new)} {style};")
    return "\n".join([*lines, "}", ""])


def _cluster(side: str, records: Sequence[NodeRecord], colour: str) -> Iterator[str]:
    if not records:
        return
    inside = {record.name for record in records}
    yield f"  subgraph cluster_{side} {{ label={quote(side)}; color=gray;"
    for record in records:
        label = "\n".join(part for part in (f"%{record.name}", format_call(record), record.type) if part)
        yield f'    {_id(side, record.name)} [label={quote(label)}, fillcolor="{colour}"];'
    yield "  }"
    for record in records:
        for name in record.inputs():
            yield f"  {_id(side if name in inside else 'value', name)} -> {_id(side, record.name)};"


def _shared(rewrite: Rewrite, removed: set[str], added: set[str]) -> Iterator[str]:
    """Values from outside, each once."""
    outside = [name for record in rewrite.removed for name in record.inputs() if name not in removed]
    outside += [name for record in rewrite.added for name in record.inputs() if name not in added]
    for name in _distinct(outside):
        yield f"  {_id('value', name)} [label={quote(f'%{name}')}, style=rounded];"


def _distinct(names: Iterable[str]) -> Iterable[str]:
    return dict.fromkeys(names)


def _id(side: str, name: str) -> str:
    return quote(f"{side} {name}")


def quote(text: str) -> str:
    r"""Text as a quoted Graphviz string; line ends become `\n`, everything else stays as it is."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
