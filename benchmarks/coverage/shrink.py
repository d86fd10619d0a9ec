"""Make a config small: the same architecture, with all its kinds of layers, in a fraction of the size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from benchmarks.coverage.layers import Layers, is_int
from benchmarks.coverage.sizes import (
    HEAD_WIDTH,
    HEADS,
    IMAGE,
    VOCABULARY,
    is_depth,
    is_image_size,
    is_key_heads,
    is_layer_positions,
    is_stages,
    is_token,
    small,
)

Settings = dict[str, Any]
_OF_STAGES = ("embed_dim", "hidden_size", "window_size")


def shrunk(config: Any, groups: frozenset[str], overrides: Mapping[str, Any] | None = None) -> Any:
    """A small config of the same class.

    Args:
        config: The config with the defaults of its class; it stays as it is.
        groups: Which groups of settings to make small; see `benchmarks.coverage.sizes`.
        overrides: Settings that count more than the rules; those of a nested config as a mapping.
    """
    return _shrunk(config, groups, {}, dict(overrides or {}))


def _shrunk(config: Any, groups: frozenset[str], tokens: dict[int, int], overrides: Settings) -> Any:
    shrinker = _Shrinker(config, groups, tokens)
    changed = shrinker.changed()
    for name, value in vars(config).items():
        if hasattr(value, "to_dict"):
            inner = overrides.pop(name, {})
            changed[name] = _shrunk(value, groups, tokens, dict(inner)) if isinstance(inner, Mapping) else inner
    return type(config)(**{**changed, **overrides})


class _Shrinker:
    """The settings of one config, those of nested configs left out.

    Args:
        config: With its defaults.
        groups: Which settings to make small.
        tokens: Numbers given to special tokens so far, by their old numbers; nested configs share it.
    """

    def __init__(self, config: Any, groups: frozenset[str], tokens: dict[int, int]) -> None:
        self.config, self.groups, self.tokens = config, groups, tokens
        self.settings = {name: value for name, value in vars(config).items() if not name.startswith("_")}
        self.layers = Layers(self.settings if "depth" in groups else {})
        counts = {name: value for name, value in self.settings.items() if name.endswith(("heads", "head"))}
        self.heads = [value for name, value in counts.items() if not is_key_heads(name)]

    def changed(self) -> Settings:
        """The settings that are not what they were, but for those that the class computes from others."""
        given = {field.name for field in fields(self.config) if field.default is not None}
        changed = {}
        for name, value in self.settings.items():
            new = self._small(name, value)
            if new is not value and new != value and (name in given or not is_int(value)):
                changed[name] = new
        if "width" in self.groups:
            changed |= self._widths()
        return changed

    def _widths(self) -> Settings:
        """Settings that must go with the small width of a head."""
        found: Settings = {}
        if self.settings.get("head_dim", 0) is None:
            found["head_dim"] = HEAD_WIDTH
        if "mrope_section" in getattr(type(self.config), "ignore_keys_at_rope_validation", ()):
            found["rope_parameters"] = _with_sections(self.settings.get("rope_parameters") or {})
        return found

    def _small(self, name: str, value: Any) -> Any:
        if is_int(value):
            return self._number(name, value)
        if isinstance(value, (list, tuple)) and value:
            return type(value)(self._list(name, value))
        return value

    def _number(self, name: str, value: int) -> int:
        if is_token(name):
            return self._token(value)
        if self.layers.staged and (is_depth(name) or name in _OF_STAGES):
            return self._of_stages(name, value)
        if is_depth(name) and value == self.layers.default:
            return self.layers.count
        if is_image_size(name) and "images" in self.groups:
            return self._image(value)
        if "width" in self.groups and is_key_heads(name):
            return HEADS if value in self.heads else min(value, HEADS // 2)
        return small(name, value, self.groups)

    def _image(self, value: int) -> int:
        """Four patches high and wide, 64 pixels where patches are merged stage by stage."""
        patch = self.settings.get("patch_size")
        return min(value, max(4 * patch, IMAGE) if is_int(patch) else IMAGE)

    def _of_stages(self, name: str, value: int) -> int:
        """Windows that fit into the smallest stage; a width that the heads of the first stage divide."""
        lists = {name: value for name, value in self.settings.items() if isinstance(value, (list, tuple)) and value}
        if name == "window_size" and "windows" in self.groups:
            return min(value, 2)
        heads = [value[0] for name, value in lists.items() if "heads" in name]
        widths = [name for name in lists if "dim" in name or "sizes" in name]
        if name == "embed_dim" and heads and not widths and "width" in self.groups:
            return min(value, HEAD_WIDTH * heads[0])
        return value

    def _token(self, value: int) -> int:
        """A number inside the small vocabulary, the same for the same token everywhere."""
        if value < VOCABULARY // 2 or "vocabulary" not in self.groups:
            return value
        return self.tokens.setdefault(value, VOCABULARY - 1 - len(self.tokens) % (VOCABULARY // 2))

    def _list(self, name: str, value: Sequence[Any]) -> Sequence[Any]:
        if name in self.layers.lists:
            return [value[i] for i in self.layers.kept]
        if not all(map(is_int, value)):
            return value
        if is_token(name):
            return [self._token(item) for item in value]
        if is_image_size(name) and "images" in self.groups:
            return [self._image(item) for item in value]
        if self.layers.default and is_layer_positions(name, value):
            return self.layers.positions(value)
        return [min(item, 2) for item in value] if "stages" in self.groups and is_stages(name) else value


def _with_sections(rope: Settings) -> Settings:
    """Rotary settings with sections (time, height, width) that make up half of the small rotary width."""
    if "rope_type" not in rope and "rope_theta" not in rope:
        return {kind: _with_sections(inner) if isinstance(inner, dict) else inner for kind, inner in rope.items()}
    half = int(HEAD_WIDTH * rope.get("partial_rotary_factor", 1.0)) // 2
    third = round(half / 3) or 1
    return {**rope, "mrope_section": [third, third, half - 2 * third]}
