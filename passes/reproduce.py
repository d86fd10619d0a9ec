"""Reproducers: a folder with a script and the region of one rewrite, that runs alone and fails alone."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphwright.passes.bisect import FirstBad

_SCRIPT = '''"""{title}

Runs the region before and after the rewrite on the values that it saw, and exits with 1 if they differ.
Needs: pip install graphwright
"""

import sys
from pathlib import Path

from graphwright import Program
from graphwright.passes.numerics import difference, run_example

folder = Path(__file__).parent
before, after = Program.load(folder / "before"), Program.load(folder / "after")
print("before:", before, "after:", after, sep="\\n")
wrong = False
for i, (old, new) in enumerate(zip(run_example(before), run_example(after), strict=True)):
    reason, error = difference(old, new, None, 1e-6)
    print(f"result {{i}}: largest difference {{error:.3g}}" + (f" - {{reason}}" if reason else ""))
    wrong |= reason is not None
sys.exit(1 if wrong else 0)
'''


def write_reproducer(found: FirstBad, folder: str | Path) -> Path:
    """Write `reproduce.py`, `before/`, `after/` and `hunk.txt` for a bad rewrite; an older folder is replaced.

    Returns:
        The path of the script.

    Raises:
        GraphwrightError: The rewrite has no region that can run alone.
        OSError: The folder cannot be written; nothing is left behind.
    """
    folder = Path(folder)
    before, after = found.region()
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        before.save(scratch / "before")
        after.save(scratch / "after")
        (scratch / "hunk.txt").write_text(f"{found}\n\n{found.hunk}", encoding="utf-8")
        title = str(found).splitlines()[0]
        (scratch / "reproduce.py").write_text(_SCRIPT.format(title=title), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder / "reproduce.py"
