"""Caches as pytrees: stable order and names, exact round trips, coexistence with transformers' own registration."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from torch.utils import _pytree as pytree

from graphwright.frontends.cache import cache_names, register_caches
from graphwright.frontends.cache_state import Decoder, find_class
from graphwright.ir.errors import FileFormatError

transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def registered():
    register_caches()
    register_caches()


def keys_values(length=3, layer=0):
    return torch.full((2, 4, length, 8), layer + 0.25), torch.full((2, 4, length, 8), layer + 0.5)


def filled(cache, layers=2, length=3):
    for layer in range(layers):
        cache.update(*keys_values(length, layer), layer)
    return cache


def config(**settings):
    return transformers.MistralConfig(
        hidden_size=32, num_attention_heads=4, num_key_value_heads=4, num_hidden_layers=2, **settings
    )


def round_trip(cache):
    leaves, spec = pytree.tree_flatten(cache)
    again = pytree.tree_unflatten(leaves, spec)
    assert pytree.tree_structure(again) == spec
    assert all(a is b for a, b in zip(pytree.tree_leaves(again), leaves, strict=True))
    return again


def test_order_and_names():
    cache = filled(transformers.DynamicCache())
    assert cache_names(cache) == [f"past_key_values.{i}.{part}" for i in (0, 1) for part in ("key", "value")]
    assert [leaf[0, 0, 0, 0].item() for leaf in pytree.tree_leaves(cache)] == [0.25, 0.5, 1.25, 1.5]
    assert cache_names(cache, "present")[3] == "present.1.value"


def test_dynamic_cache_goes_on_after_a_round_trip():
    cache = round_trip(filled(transformers.DynamicCache(config=config(sliding_window=None))))
    assert cache.get_seq_length() == 3
    assert cache.update(*keys_values(2), 0)[0].shape == (2, 4, 5, 8)


@pytest.mark.parametrize("length", [3, 20], ids=["inside the window", "beyond the window"])
def test_sliding_window(length):
    original = filled(transformers.DynamicCache(config=config(sliding_window=8)), length=length)
    again = round_trip(original)
    assert again.get_seq_length() == original.get_seq_length() == length
    assert again.get_mask_sizes(1, 0) == original.get_mask_sizes(1, 0)
    assert torch.equal(again.update(*keys_values(1), 0)[0], original.update(*keys_values(1), 0)[0])


@pytest.mark.parametrize("make", [transformers.DynamicCache, lambda: transformers.DynamicCache(config=config())])
def test_empty_cache_has_no_leaves(make):
    cache = make()
    assert pytree.tree_leaves(cache) == []
    assert round_trip(cache).get_seq_length() == 0
    assert filled(round_trip(cache)).get_seq_length() == 3


def test_encoder_decoder_cache():
    own, cross = filled(transformers.DynamicCache(), 1), filled(transformers.DynamicCache(), 1, 5)
    cache = transformers.EncoderDecoderCache(own, cross)
    names = ["present.0.decoder.key", "present.0.decoder.value", "present.0.encoder.key", "present.0.encoder.value"]
    assert cache_names(cache, "present") == names
    again = round_trip(cache)
    assert again.is_updated == {0: True}
    assert again.cross_attention_cache.get_seq_length() == 5


def test_static_cache():
    cache = round_trip(filled(transformers.StaticCache(config=config(sliding_window=None), max_cache_len=16)))
    assert cache.get_seq_length() == 3
    assert cache.get_max_length() == 16
    assert "past_key_values.0.cumulative_length" in cache_names(cache)


def test_equal_caches_have_equal_layouts():
    one, other = filled(transformers.DynamicCache()), filled(transformers.DynamicCache(), length=7)
    from_config = filled(transformers.DynamicCache(config=config(sliding_window=None)))
    assert pytree.tree_structure(one) == pytree.tree_structure(other) == pytree.tree_structure(from_config)
    assert pytree.tree_structure(one) != pytree.tree_structure(filled(transformers.DynamicCache(), 1))


def test_layout_is_json():
    spec = pytree.tree_structure(filled(transformers.DynamicCache(config=config(sliding_window=8))))
    text = pytree.treespec_dumps(spec)
    assert json.loads(text)
    assert pytree.treespec_loads(text) == spec


@pytest.mark.parametrize(
    "path", ["os:system", "subprocess:Popen", "transformers.utils.hub:CacheLayer", "builtins:Cache"]
)
def test_a_layout_names_no_other_classes(path):
    with pytest.raises(FileFormatError, match="not a cache class"):
        find_class(path)
    with pytest.raises(FileFormatError):
        Decoder([]).decode({"object": path, "state": {}})


@pytest.mark.parametrize("first", ["transformers", "graphwright"])
def test_coexists_with_the_registration_of_transformers(first):
    script = """
import sys, torch
from transformers import DynamicCache
from transformers.integrations.executorch import register_dynamic_cache_export_support
from graphwright.frontends.cache import cache_names, register_caches
from torch.utils import _pytree as pytree
steps = [register_dynamic_cache_export_support, register_caches]
for step in steps if sys.argv[1] == "transformers" else reversed(steps):
    step()
cache = DynamicCache()
for i in range(2):
    cache.update(torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4), i)
leaves, spec = pytree.tree_flatten(cache)
assert pytree.tree_unflatten(leaves, spec).get_seq_length() == 3
assert sorted(cache_names(cache)) == [f"past_key_values.{i}.{part}" for i in (0, 1) for part in ("key", "value")]
"""
    subprocess.run([sys.executable, "-c", script, first], check=True)
