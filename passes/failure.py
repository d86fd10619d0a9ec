"""What a failed pass leaves behind: the program it was given, the error, and a script that fails in the same way."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphwright.ir.errors import GraphwrightError, MismatchError
from graphwright.ir.program import Program
from graphwright.passes.base import FunctionPass, pass_name

if TYPE_CHECKING:
    from graphwright.passes.base import Pass

_LARGEST_PROGRAM = 2 * 1024**3

_SCRIPT = '''"""Runs {name} on the program that it failed on.

It failed with {error}.
Needs: pip install graphwright
"""

import importlib
import importlib.util
import sys
from pathlib import Path

from graphwright import Numerics, Pipeline, Program


def load(name, path):
    """The module that defines the pass: by name if it is installed, else from its file."""
    try:
        return importlib.import_module(name)
    except ImportError:
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module


{steps}
program = Program.load(Path(__file__).parent / "program")
Pipeline(step).run(program, instruments=[{instruments}])
print("the pass did not fail")
'''


def write_failure(folder: Path, pass_: Pass, program: Program, error: Exception) -> None:
    """Write `error.txt`, `program/` and `reproduce.py`; the last two only if the weights are not over 2 GiB.

    Args:
        folder: Folder to write to, made if absent.
        pass_: The pass that failed.
        program: The program it was given.
        error: What it failed with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = f"pass: {pass_}\n{''.join(traceback.format_exception(error))}"
    try:
        if program.state_bytes() <= _LARGEST_PROGRAM:
            program.save(folder / "program")
            (folder / "reproduce.py").write_text(script(pass_, error), encoding="utf-8")
    except GraphwrightError as failure:
        text += f"\nthe program could not be written: {failure}\n"
    (folder / "error.txt").write_text(text, encoding="utf-8")


def script(pass_: Pass, error: Exception) -> str:
    """Text of a script beside `program/` that runs the pass and fails as it did."""
    title = repr(f"{type(error).__name__}: {error}".splitlines()[0])[1:-1]
    name = repr(f"pass '{pass_name(pass_)}'")[1:-1]
    return _SCRIPT.format(
        name=name.replace('"', "'"),
        error=title.replace('"', "'"),
        steps=_steps(pass_),
        instruments="Numerics()" if isinstance(error, MismatchError) else "",
    )


def _steps(pass_: Pass) -> str:
    """Lines that give `step`: the pass by its text, after the import of the module that defines it."""
    item: Any = pass_.function if isinstance(pass_, FunctionPass) else getattr(pass_, "rule", pass_)
    home: Any = item if hasattr(item, "__qualname__") else type(item)
    lines = []
    if not home.__module__.startswith("graphwright."):
        path = getattr(sys.modules.get(home.__module__), "__file__", None) or ""
        name = "reproduced" if home.__module__ == "__main__" else home.__module__
        lines.append(f"module = load({name!r}, {path!r})")
    if _is_known(pass_):
        return "\n".join([*lines, f"step = {str(pass_)!r}"])
    if "<" in home.__qualname__:
        reason = f"{home.__qualname__} is defined inside a function: register it by name"
        return f"raise SystemExit({reason!r})"
    return "\n".join([*lines, f"step = module.{home.__qualname__}"])


def _is_known(pass_: Pass) -> bool:
    """Whether the text of the pass stands for it in a pipeline."""
    from graphwright.passes.pipeline import Pipeline

    try:
        return Pipeline(str(pass_)).passes == (pass_,)
    except GraphwrightError:
        return False
