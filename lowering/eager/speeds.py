"""Measured speeds: which of several forms of a call is the fastest on this machine, timed once and kept in a file.

The file lies in the user's cache folder (`$GRAPHWRIGHT_CACHE`, else `$XDG_CACHE_HOME/graphwright`, else
`~/.cache/graphwright`), one for each processor and version of torch. A file that cannot be read counts as empty.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger("graphwright")

Seconds = dict[str, float]
_SETTINGS = ("MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")


class Speeds:
    """Seconds of each form of each kind of call.

    Args:
        path: The file to read first and to add to; None keeps everything in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._seconds: dict[str, Seconds] = _read(path) if path is not None else {}

    def fastest(self, kind: str, forms: Mapping[str, Callable[[], Any]]) -> str:
        """Name of the fastest form; forms that are not known for this kind of call are timed now.

        Args:
            kind: What the speed depends on, as text: operation, dtype, sizes, threads.
            forms: The call in each form. The first one stays unless another is at least 2 % faster.
        """
        known = self._seconds.get(kind, {})
        if not forms.keys() <= known.keys():
            known = known | timed(forms)
            self._seconds[kind] = known
            self._write()
        first, *others = forms
        best = min(others, key=known.__getitem__, default=first)
        return best if known[best] < 0.98 * known[first] else first

    def _write(self) -> None:
        if self.path is None:
            return
        try:
            self._seconds = _read(self.path) | self._seconds  # another process may have added to it
            _replace(self.path, json.dumps({"machine": machine(), "seconds": self._seconds}, indent=1))
        except OSError as error:
            logger.debug("measured speeds are not kept: %s", error)


def timed(forms: Mapping[str, Callable[[], Any]], rounds: int = 7, budget: float = 0.15) -> Seconds:
    """Shortest time of each form in seconds, taking turns; at least two rounds after one to warm up.

    One thread is timed by its own clock, which other processes do not disturb; several by the wall clock.
    """
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    best: Seconds = {}
    begin = time.perf_counter()
    for turn in range(rounds + 1):
        if turn > 2 and time.perf_counter() - begin > budget:
            break
        for name, call in forms.items():
            start = clock()
            call()
            seconds = clock() - start
            if turn:
                best[name] = min(seconds, best.get(name, seconds))
    return best


@cache
def user_speeds() -> Speeds:
    """The speeds of this machine, read when first asked for."""
    name = hashlib.sha256(json.dumps(machine(), sort_keys=True).encode()).hexdigest()[:16]
    return Speeds(cache_folder() / f"speeds-{name}.json")


def cache_folder() -> Path:
    """The folder of this user for what can be computed again."""
    if "GRAPHWRIGHT_CACHE" in os.environ:
        return Path(os.environ["GRAPHWRIGHT_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "graphwright"


@cache
def machine() -> dict[str, str]:
    """What speeds depend on beside the call: processor, torch, and settings of its math libraries."""
    settings = {name: os.environ[name] for name in _SETTINGS if name in os.environ}
    return {"torch": torch.__version__, "cpu": _processor(), "isa": torch.backends.cpu.get_cpu_capability(), **settings}


def _processor() -> str:
    """Vendor, family, model and flags of the processor."""
    try:
        block = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    fields = dict(line.split(":", 1) for line in block.splitlines() if ":" in line)
    named = {name.strip(): value.strip() for name, value in fields.items()}
    flags = hashlib.sha256(named.get("flags", "").encode()).hexdigest()[:8]
    return " ".join([*(named.get(name, "?") for name in ("model name", "cpu family", "model", "cache size")), flags])


def _read(path: Path) -> dict[str, Seconds]:
    """The speeds in a file; empty if it is missing, damaged, or of another machine."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        seconds = content["seconds"]
        sound = content["machine"] == machine() and all(_is_sound(known) for known in seconds.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return seconds if sound else {}


def _is_sound(known: Any) -> bool:
    return isinstance(known, dict) and all(isinstance(value, float) and value > 0 for value in known.values())


def _replace(path: Path, text: str) -> None:
    """Write a file in one step, so that no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=path.name, dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
