"""Container classes that files name: imported from transformers alone, so that they register themselves as pytrees."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from graphwright.frontends.cache import register_caches
from graphwright.ir.errors import MissingDependencyError

_PREFIX = "transformers."


def register_containers(names: Iterable[str]) -> None:
    """Make the classes known that a program's inputs and outputs need; names outside transformers are left alone.

    Args:
        names: Such as `transformers.modeling_outputs.BaseModelOutput` or `transformers.cache_utils:DynamicCache`.

    Raises:
        MissingDependencyError: transformers is not installed.
    """
    modules = {name.replace(":", ".").rpartition(".")[0] for name in names if name.startswith(_PREFIX)}
    if not modules:
        return
    try:
        importlib.import_module("transformers.cache_utils")
    except ImportError as error:
        raise MissingDependencyError("transformers", "transformers", "this program's inputs and outputs") from error
    for module in sorted(modules):
        if module.split(".")[-1].startswith("modeling_"):
            importlib.import_module(module)
    register_caches()
