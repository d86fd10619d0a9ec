"""Who makes container classes known that a file names: `ir` imports no package because a file says so."""

from __future__ import annotations

from collections.abc import Callable

Provider = Callable[[str], None]

_PROVIDERS: dict[str, Provider] = {}


def register_provider(prefix: str, provider: Provider) -> None:
    """Let `provider` register the classes whose name starts with `prefix` as pytrees, when a file first needs one.

    Args:
        prefix: Such as `transformers.`; registered again, the new provider takes the place of the old.
        provider: Called with the name of a class that is not registered; it leaves names alone that it does not know.
    """
    _PROVIDERS[prefix] = provider


def provide(name: str) -> None:
    """Ask the providers for a container class."""
    for prefix, provider in _PROVIDERS.items():
        if name.startswith(prefix):
            provider(name)
