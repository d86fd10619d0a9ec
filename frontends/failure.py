"""From what torch.export raises to one error that a user can act on."""

from __future__ import annotations

import re
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

from graphwright.ir.errors import CaptureError

_FOREIGN = (str(Path(torch.__file__).parent), str(Path(__file__).parent), sysconfig.get_paths()["stdlib"] + "/")
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_NOISE = re.compile(r"\s+")
_INSTALLED = ("site-packages", "dist-packages")

Failure = tuple[str, Exception]


def capture_error(name: str, failures: Sequence[Failure], eager: Exception | None) -> CaptureError:
    """The error for a model that no attempt captured.

    Args:
        name: Class of the model.
        failures: (attempt, what it raised), in order.
        eager: What the model itself raises on the example inputs, None if it runs.
    """
    if eager is not None:
        return CaptureError(
            f"{name} cannot be captured: the model itself fails on the example inputs",
            at=user_line(eager),
            why=reason(eager),
            remedies=["pass inputs that the model accepts: capture(model, inputs)"],
        )
    attempt, first = failures[0]
    others = "".join(f"\n  then '{other}' failed: {reason(error)}" for other, error in failures[1:])
    return CaptureError(
        f"{name} cannot be captured: torch.export failed in attempt '{attempt}'",
        at=user_line(first),
        why=reason(first) + others,
        remedies=remedies(first),
    )


def user_line(error: BaseException) -> str | None:
    """`file:line` of the innermost frame outside torch, the standard library and this package."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    frames += [(file, int(line)) for file, line in _FRAME.findall(str(error))]
    users = [(file, line) for file, line in frames if is_user_file(file)]
    return f"{users[-1][0]}:{users[-1][1]}" if users else None


def is_user_file(file: str) -> bool:
    """Whether a source file belongs to the model rather than to torch, Python or this package."""
    if file.startswith("<"):
        return False
    return not file.startswith(_FOREIGN[:2]) and not (
        file.startswith(_FOREIGN[2]) and not any(part in file for part in _INSTALLED)
    )


def reason(error: BaseException) -> str:
    """What an exception says, in one line of at most 300 characters."""
    paragraph = str(error).strip().split("\n\n")[0]
    text = _NOISE.sub(" ", paragraph) or type(error).__name__
    text = text if len(text) <= 300 else text[:297] + "..."
    return f"{type(error).__name__}: {text}"


def remedies(error: BaseException) -> list[str]:
    """What to try, most likely first."""
    kind, text = type(error).__name__, str(error)
    if "DataDependent" in kind or "data-dependent" in text or ".item()" in text:
        return [
            "the model branches on values of a tensor there: use torch.where or torch.cond, or torch._check(...) where "
            "one branch is always taken",
            "capture the submodule around that line with its own inputs",
        ]
    if "pytree" in text or "input type" in text.lower() or "output type" in text.lower():
        return [
            "register the class with torch.utils._pytree.register_pytree_node",
            "pass and return tensors, tuples, lists and dicts only",
        ]
    if kind in ("ConstraintViolationError", "InputError") or "dynamic" in text.lower():
        return ["leave the dimension static: capture(model, inputs, dynamic=None)", "use dynamic='auto'"]
    return [
        "capture with static sizes: capture(model, inputs, dynamic=None)",
        "rewrite the line above in traceable PyTorch",
        "export it yourself and pass the ExportedProgram: capture(exported_program)",
    ]
