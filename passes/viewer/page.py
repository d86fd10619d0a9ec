"""A trace as one self-contained HTML page that opens from a file: no server, no network."""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from graphwright.passes.viewer.data import page_data

if TYPE_CHECKING:
    from graphwright.passes.trace import Trace

SCRIPTS = ("dom", "model", "rows", "tree", "changes", "misses", "details", "search", "main")
"""Parts of the script in the order in which they use each other."""


def page_html(trace: Trace, title: str = "") -> str:
    """The page of a trace.

    Texts of the model (names, sources) are data in the page, never markup; a content security policy allows
    exactly the page's own script and style, and no network.

    Args:
        trace: The trace.
        title: Heading of the page; the program's name where left out.
    """
    data = page_data(trace, title)
    style, script = _asset("viewer.css"), _script()
    parts = {
        "title": escape(data["title"]),
        "policy": f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'",
        "style": style,
        "script": script,
        "data": _json(data),
    }
    page = _asset("page.html")
    pieces = page.split("@@")
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def _script() -> str:
    """All parts as one function, so that nothing becomes global unless it is meant to."""
    bodies = "\n".join(_asset(f"{name}.js") for name in SCRIPTS)
    return f'"use strict";\n(() => {{\n{bodies}}})();\n'


def _asset(name: str) -> str:
    return (files("graphwright.passes.viewer") / "assets" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(data: object) -> str:
    """JSON that cannot end the element it stands in, whatever texts it holds."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
