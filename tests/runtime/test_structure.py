"""Taking arguments and results apart and putting them together again."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache, QuantizedCache
from transformers.modeling_outputs import BaseModelOutput

from graphwright.runtime.caches import Unservable, flatten_cache, make_cache, store_cache
from graphwright.runtime.call import Call, Parameters
from graphwright.runtime.compare import difference
from graphwright.runtime.structure import flatten, rebuild

X, Y = torch.ones(2, 3), torch.zeros(1)


@pytest.mark.parametrize(
    "value",
    [X, None, 3, 2.5, "a", True, (X, None), [X, [Y]], {"a": X, "b": {"c": 1}}, BaseModelOutput(last_hidden_state=X)],
    ids=str,
)
def test_round_trip(value):
    tensors = []
    template = flatten(value, tensors)
    hash(template)
    again = []
    result = rebuild(template, iter(tensors))
    assert flatten(result, again) == template
    assert type(result) is type(value)
    assert all(a is b for a, b in zip(tensors, again, strict=True))


def test_constants_of_different_types_are_different():
    assert len({flatten(value, []) for value in (1, True, 1.0)}) == 3


def test_unknown_objects():
    with pytest.raises(Unservable, match="set"):
        flatten({1, 2}, [])


def filled(cache, layers=2):
    for i in range(layers):
        cache.update(torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4), i)
    return cache


@pytest.mark.parametrize(
    "make",
    [
        DynamicCache,
        lambda: filled(DynamicCache()),
        lambda: EncoderDecoderCache(filled(DynamicCache()), DynamicCache()),
        lambda: EncoderDecoderCache(filled(DynamicCache()), filled(DynamicCache())),
    ],
)
def test_caches(make):
    cache, tensors = make(), []
    layout = flatten_cache(cache, tensors)
    again = []
    copy = make_cache(layout, iter(tensors))
    assert flatten_cache(copy, again) == layout
    assert type(copy) is type(cache)
    assert all(a is b for a, b in zip(tensors, again, strict=True))


def test_storing_keeps_the_layers():
    source, cache = filled(DynamicCache()), filled(DynamicCache(), layers=1)
    layer, tensors = cache.layers[0], []
    layout = flatten_cache(source, tensors)
    store_cache(cache, layout, iter(tensors))
    assert cache.layers[0] is layer
    assert [layer.keys for layer in cache.layers] == [layer.keys for layer in source.layers]
    assert cache.get_seq_length() == 3


def test_other_caches_are_unservable():
    with pytest.raises(Unservable, match="QuantizedCache"):
        flatten_cache(object.__new__(QuantizedCache), [])


def test_a_call_is_rebuilt_with_its_own_caches():
    cache = filled(DynamicCache())
    call = Call({"x": X, "past": cache, "flag": True, "pair": (X, Y)})
    arguments, caches = call.arguments([tensor + 1 for tensor in call.tensors])
    assert call.tensor_names() == ["x_0", "past_0", "past_1", "past_2", "past_3", "pair_0", "pair_1"]
    assert list(arguments) == ["x", "past", "flag", "pair"]
    assert arguments["past"] is caches[0]
    assert arguments["past"] is not cache
    assert torch.equal(arguments["pair"][1], Y + 1)
    assert torch.equal(caches[0].layers[1].values, cache.layers[1].values + 1)


def test_binding_of_arguments():
    def forward(self, a, b=None, c=2, **kwargs): ...

    parameters = Parameters(forward)
    assert parameters.bind((1, 2), {"d": None, "c": None}) == {"a": 1, "b": 2, "c": None}
    assert parameters.bind((1, None), {"e": 3}) == {"a": 1, "e": 3}
    with pytest.raises(Unservable):
        parameters.bind((1, 2, 3, 4), {})
    assert Parameters(lambda self, *rest: None).refusal == "its forward takes '*rest'"


@pytest.mark.parametrize(
    ("expected", "actual", "text"),
    [
        (X, X + 1e-6, None),
        (X, X + 1e-2, "differs by 0.01"),
        (X, X.double(), "dtype"),
        (X, X[:1], "shape"),
        (X * torch.nan, X * torch.nan, None),
        (X, X * torch.nan, "infinite or NaN"),
        (X.long(), X.long() + 1, "other values"),
        (X.double(), X.double() + 1e-6, "differs"),
    ],
)
def test_comparison(expected, actual, text):
    found = difference(expected, actual)
    assert found is None if text is None else text in found
