"""What masks are proved to be: causal or all only where brute force agrees, for every size."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from graphwright.ir.node import is_call
from graphwright.passes.attention.mask import judge
from graphwright.passes.pipeline import Pipeline

aten = torch.ops.aten
F64, F32 = torch.float64, torch.float32
LOWEST = torch.finfo(F32).min


class WithLength(nn.Module):
    """A mask of a length: the function gets the module with its buffers and the length."""

    def __init__(self, function, **buffers):
        super().__init__()
        self.function = function
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor)

    def forward(self, x):
        return self.function(self, x.shape[-1], x)


def verdict(trace_module, function, sizes=(2, 3, 7), **buffers):
    """What is proved about the mask that `function(module, length, x)` makes, checked by brute force."""
    module = WithLength(function, **buffers)
    made = trace_module(module, torch.ones(2, 5), dynamic=(0, 1))
    made = Pipeline("canonicalize").run(made).program
    (result,) = made.results
    found = judge(result, made.state)
    for size in sizes:
        assert agrees(found, module(torch.ones(2, size)))
    return found


def keeps(mask):
    return mask if mask.dtype == torch.bool else mask == 0


def agrees(found, mask):
    """Whether a mask is what was claimed; a claim holds for square masks that broadcast over batch and heads."""
    kept = keeps(mask)
    rows, columns = kept.shape[-2:] if kept.dim() > 1 else (1, kept.shape[-1])
    if found == "all":
        return bool(kept.all())
    if found == "causal":
        want = torch.ones(rows, columns, dtype=torch.bool).tril()
        values_fit = mask.dtype == torch.bool or bool((mask[~kept] <= -1e4).all())
        return rows == columns and bool((kept == want).all()) and values_fit
    return True


def positions(n):
    return torch.arange(n)


def rows(n):
    return positions(n)[:, None]


# ---- named masks -----------------------------------------------------------------------------

CAUSAL = {
    "comparison": lambda m, n, x: positions(n)[None, :] <= rows(n),
    "comparison, the other way": lambda m, n, x: rows(n) >= positions(n),
    "strict, of shifted": lambda m, n, x: positions(n) < rows(n) + 1,
    "not later": lambda m, n, x: ~(positions(n) > rows(n)),
    "logical not": lambda m, n, x: torch.logical_not(rows(n) < positions(n)),
    "in four dims": lambda m, n, x: (positions(n)[None, :] <= rows(n))[None, None],
    "expanded": lambda m, n, x: (positions(n)[None, :] <= rows(n))[None, None].expand(2, 1, n, n),
    "transposed": lambda m, n, x: (positions(n)[None, :] >= rows(n)).T,
    "tril of ones": lambda m, n, x: torch.ones(n, n, dtype=torch.bool).tril(),
    "tril function": lambda m, n, x: torch.tril(torch.full((n, n), True)),
    "tril transposed twice": lambda m, n, x: torch.ones(n, n, dtype=torch.bool).tril().t().t(),
    "stored": lambda m, n, x: m.stored[:n, :n],
    "stored in four dims": lambda m, n, x: m.stored[None, None][:, :, :n, :n],
    "stored and compared": lambda m, n, x: m.stored[:n, :n] & (positions(n) <= rows(n)),
    "with what is implied": lambda m, n, x: (positions(n) <= rows(n)) & (rows(n) >= 0),
    "with all": lambda m, n, x: (positions(n) <= rows(n)) & torch.ones(n, n, dtype=torch.bool),
    "added": lambda m, n, x: torch.where(positions(n) <= rows(n), 0.0, LOWEST),
    "added, the other way": lambda m, n, x: torch.where(positions(n) > rows(n), -math.inf, 0.0),
    "filled": lambda m, n, x: torch.zeros(n, n).masked_fill(positions(n) > rows(n), -1e9),
    "triu of the lowest": lambda m, n, x: torch.full((n, n), LOWEST).triu(1),
    "triu of -inf": lambda m, n, x: torch.triu(torch.full((n, n), -math.inf), diagonal=1)[None],
    "one minus keep": lambda m, n, x: (1.0 - (positions(n) <= rows(n)).float()) * LOWEST,
    "drop times lowest": lambda m, n, x: (positions(n) > rows(n)).float() * -1e9,
    "sum of zero and causal": lambda m, n, x: torch.where(positions(n) <= rows(n), 0.0, LOWEST) + torch.zeros(n, n),
}
ALL = {
    "ones": lambda m, n, x: torch.ones(n, n, dtype=torch.bool),
    "full": lambda m, n, x: torch.full((1, 1, n, n), True),
    "zeros": lambda m, n, x: torch.zeros(n, n),
    "not negative": lambda m, n, x: positions(n) >= 0,
    "smaller than the length plus one": lambda m, n, x: positions(n) - positions(n) < n + 1,
    "where kept everywhere": lambda m, n, x: torch.where(torch.ones(n, n, dtype=torch.bool), 0.0, LOWEST),
    "one minus one": lambda m, n, x: (1.0 - torch.ones(n, n, dtype=torch.bool).float()) * LOWEST,
    "stored": lambda m, n, x: m.full[:n, :n],
}
OTHER = {
    "strictly earlier": lambda m, n, x: positions(n) < rows(n),
    "one further": lambda m, n, x: positions(n) <= rows(n) + 1,
    "one less": lambda m, n, x: positions(n) + 1 <= rows(n),
    "later": lambda m, n, x: positions(n) >= rows(n),
    "transposed": lambda m, n, x: (positions(n) <= rows(n)).T,
    "transposed tril": lambda m, n, x: torch.ones(n, n, dtype=torch.bool).tril().t(),
    "sliding window": lambda m, n, x: (positions(n) <= rows(n)) & (positions(n) > rows(n) - 3),
    "window of the length": lambda m, n, x: (positions(n) <= rows(n)) & (positions(n) > rows(n) - n // 2),
    "offset of past": lambda m, n, x: positions(n) <= rows(n) + n,
    "tril with a diagonal": lambda m, n, x: torch.ones(n, n, dtype=torch.bool).tril(1),
    "tril below the diagonal": lambda m, n, x: torch.ones(n, n, dtype=torch.bool).tril(-1),
    "triu": lambda m, n, x: torch.ones(n, n, dtype=torch.bool).triu(),
    "triu of the lowest from the diagonal": lambda m, n, x: torch.full((n, n), LOWEST).triu(),
    "tril of the lowest": lambda m, n, x: torch.full((n, n), LOWEST).tril(-1),
    "padding": lambda m, n, x: x[:, None, None, :] > 0,
    "causal and padding": lambda m, n, x: (positions(n) <= rows(n)) & (x[:, None, None, :] > 0),
    "causal or padding": lambda m, n, x: (positions(n) <= rows(n)) | (x[:, None, None, :] > 0),
    "negated conjunction": lambda m, n, x: ~((positions(n) <= rows(n)) & (positions(n) >= rows(n))),
    "causal or windows": lambda m, n, x: (positions(n) <= rows(n)) | (positions(n) > rows(n) + 2),
    "doubled": lambda m, n, x: positions(n) * 2 <= rows(n),
    "stored, cut elsewhere": lambda m, n, x: m.stored[1 : n + 1, :n],
    "stored, with holes": lambda m, n, x: m.holes[:n, :n],
    "stored in another dtype and size": lambda m, n, x: m.wide[:n, :n],
    "every other": lambda m, n, x: m.stored[: 2 * n : 2, :n],
    "reversed": lambda m, n, x: (positions(n) <= rows(n)).flip(0),
    "shifted positions": lambda m, n, x: positions(n) <= torch.arange(1, n + 1)[:, None],
    "step of two": lambda m, n, x: torch.arange(0, 2 * n, 2) <= rows(n),
    "causal bias and a real one": lambda m, n, x: torch.where(positions(n) <= rows(n), 0.0, LOWEST) + x[:1, :],
    "weak fill": lambda m, n, x: torch.where(positions(n) <= rows(n), 0.0, -1.0),
    "positive fill": lambda m, n, x: torch.where(positions(n) <= rows(n), 0.0, 1e9),
    "kept at one": lambda m, n, x: torch.where(positions(n) <= rows(n), 1.0, LOWEST),
    "ALiBi": lambda m, n, x: (positions(n) - rows(n)) * 0.5,
    "float comparison": lambda m, n, x: positions(n).float() * 0.5 <= rows(n),
    "rounded": lambda m, n, x: positions(n) // 2 <= rows(n) // 2,
    "equal": lambda m, n, x: positions(n) == rows(n),
    "different": lambda m, n, x: positions(n) != rows(n),
    "none": lambda m, n, x: torch.zeros(n, n, dtype=torch.bool),
    "lowest everywhere": lambda m, n, x: torch.full((n, n), LOWEST),
    "batch as rows": lambda m, n, x: (positions(n)[None] <= torch.arange(x.shape[0])[:, None])[:, None, None, :],
    "exclusive or": lambda m, n, x: (positions(n) <= rows(n)) ^ (positions(n) == rows(n)),
    "gathered backwards": lambda m, n, x: positions(n) <= positions(n).flip(0)[:, None],
    "triu of a stored one": lambda m, n, x: m.stored[:n, :n].triu(),
}
BUFFERS = {
    "stored": torch.ones(16, 16, dtype=torch.bool).tril(),
    "full": torch.ones(16, 16, dtype=torch.bool),
    "holes": torch.ones(16, 16, dtype=torch.bool).tril() & (torch.arange(16) != 3),
    "wide": torch.ones(16, 24, dtype=torch.bool).tril(4),
}


def buffers():
    return {name: tensor.clone() for name, tensor in BUFFERS.items()}


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_masks_are_proved(trace_module, name):
    assert verdict(trace_module, CAUSAL[name], **buffers()) == "causal"


@pytest.mark.parametrize("name", ALL)
def test_masks_that_keep_everything_are_proved(trace_module, name):
    assert verdict(trace_module, ALL[name], **buffers()) == "all"


@pytest.mark.parametrize("name", OTHER)
def test_other_masks_are_kept(trace_module, name):
    assert verdict(trace_module, OTHER[name], **buffers()) == "other"


def test_a_trained_mask_is_kept(trace_module):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.mask = nn.Parameter(torch.zeros(5, 5))

        def forward(self, x):
            return self.mask * 1.0

    made = Pipeline("canonicalize").run(trace_module(Net(), torch.ones(2, 5))).program
    assert judge(made.results[0], made.state) == "other"


# ---- in attention ----------------------------------------------------------------------------


def attention_of(mask_of):
    def attend(m, x, keep):
        n = x.shape[1]
        q = x[:, None]
        scores = q @ q.transpose(-1, -2) * 0.3
        return torch.softmax(mask_of(m, n, x, keep, scores), -1) @ q

    return attend


def fused(trace, attend, batch=2, length=5, **state):
    x = torch.randn(batch, length, 8, dtype=F64, generator=torch.Generator().manual_seed(0))
    keep = torch.ones(batch, length, dtype=torch.bool)
    from graphwright.ir.program import Program
    from graphwright.ir.signature import Example

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            for name, tensor in state.items():
                self.register_buffer(name, tensor)

        def forward(self, x, keep):
            return attend(self, x, keep)

    auto = torch.export.Dim.AUTO
    dims = {1: auto} if batch == 1 else {0: auto, 1: auto}
    exported = torch.export.export(Net(), (x, keep), dynamic_shapes=(dims, dims), strict=False)
    made = Program.from_exported(exported, example=Example((x, keep)))
    result = Pipeline("default").run(made).program
    (node,) = [n for n in result.nodes if is_call(n, aten.scaled_dot_product_attention)]
    for size in (2, 3, 6):
        x = torch.randn(batch, size, 8, dtype=F64, generator=torch.Generator().manual_seed(size))
        keep = torch.ones(batch, size, dtype=torch.bool)
        keep[0, size // 2 :] = False
        keep[0, 0] = True
        assert torch.allclose(result.run(x, keep), made.run(x, keep), atol=1e-10)
    mask = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
    causal = node.args[5] if len(node.args) > 5 else node.kwargs.get("is_causal", False)
    return mask, causal


def causal(n):
    return positions(n) <= rows(n)


DROPPED = {
    "filled": lambda m, n, x, keep, s: s.masked_fill(~causal(n), -math.inf),
    "filled with the lowest": lambda m, n, x, keep, s: torch.where(causal(n), s, torch.finfo(F64).min),
    "added": lambda m, n, x, keep, s: s + torch.where(causal(n), 0.0, LOWEST),
    "stored": lambda m, n, x, keep, s: torch.where(m.stored[:n, :n], s, -1e9),
}
KEPT = {
    "causal and padding": lambda m, n, x, keep, s: s.masked_fill(~(causal(n) & keep[:, None, None, :]), -1e9),
    "causal, then padding": lambda m, n, x, keep, s: s.masked_fill(~causal(n), -1e9)
    .masked_fill(~keep[:, None, None], -1e9),
    "causal and padding added": lambda m, n, x, keep, s: s
    + torch.where(causal(n), 0.0, LOWEST)
    + torch.where(keep, 0.0, LOWEST)[:, None, None, :],
    "padding": lambda m, n, x, keep, s: s.masked_fill(~keep[:, None, None, :], -1e9),
    "window": lambda m, n, x, keep, s: s.masked_fill(~(causal(n) & (positions(n) > rows(n) - 2)), -1e9),
    "one further": lambda m, n, x, keep, s: s.masked_fill(positions(n) > rows(n) + 1, -1e9),
}  # fmt: skip


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", DROPPED)
def test_a_causal_mask_becomes_a_flag(trace, name, batch):
    assert fused(trace, attention_of(DROPPED[name]), batch, stored=BUFFERS["stored"].clone()) == (None, True)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", KEPT)
def test_a_mask_that_is_more_than_causal_is_never_dropped(trace, name, batch):
    mask, flag = fused(trace, attention_of(KEPT[name]), batch)
    assert mask is not None
    assert flag is False


def test_cross_attention_with_a_lower_triangle(trace):
    """`is_causal` of the fused op counts from the top left, as this mask does."""
    torch.manual_seed(0)
    q, k = torch.randn(1, 2, 3, 8, dtype=F64), torch.randn(1, 2, 6, 8, dtype=F64)

    def attend(q, k):
        mask = positions(k.shape[2])[None] <= rows(q.shape[2])
        return torch.softmax((q @ k.transpose(-1, -2)).masked_fill(~mask, -1e9), -1) @ k

    def with_past(q, k):
        past = k.shape[2] - q.shape[2]
        mask = positions(k.shape[2])[None] <= rows(q.shape[2]) + past
        return torch.softmax((q @ k.transpose(-1, -2)).masked_fill(~mask, -1e9), -1) @ k

    for function in (attend, with_past):
        for dynamic in ((), (2,)):
            made = trace(function, q, k, dynamic=dynamic)
            result = Pipeline("default").run(made).program
            assert torch.allclose(result.run(q, k), function(q, k), atol=1e-10)


def test_masks_of_transformers_are_proved_causal_or_kept(trace_module):
    """Packed-sequence detection over position_ids is seen through; a padding mask is not dropped."""
    from transformers import LlamaConfig, LlamaModel

    from graphwright.ir.program import Program
    from graphwright.ir.signature import Example

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=32,
        attn_implementation="eager", use_cache=False,
    )  # fmt: skip
    model = LlamaModel(config).double().eval()
    ids = torch.arange(10).view(2, 5)
    mask = torch.ones(2, 5, dtype=torch.long)
    auto = torch.export.Dim.AUTO
    for kwargs in ({"input_ids": ids}, {"input_ids": ids, "attention_mask": mask}):
        shapes = {name: {0: auto, 1: auto} for name in kwargs}
        call = kwargs | {"use_cache": False}
        exported = torch.export.export(model, (), call, dynamic_shapes=shapes | {"use_cache": None}, strict=False)
        made = Program.from_exported(exported, example=Example((), call))
        result = Pipeline("default").run(made).program
        (node,) = [n for n in result.nodes if is_call(n, aten.scaled_dot_product_attention)]
        assert node.args[5] is ("attention_mask" not in kwargs)
        assert (node.args[3] is None) is ("attention_mask" not in kwargs)
        padded = dict(call)
        if "attention_mask" in padded:
            padded["attention_mask"] = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 0, 1, 1]])
        want, have = model(**padded).last_hidden_state, result.run(**padded).last_hidden_state
        kept = padded.get("attention_mask", mask).bool()
        # float32 inside of the model's softmax and norms
        assert torch.allclose(have[kept], want[kept], atol=1e-6)


# ---- random masks ----------------------------------------------------------------------------

leaf = st.one_of(
    st.tuples(
        st.just("compare"), st.sampled_from(["le", "lt", "ge", "gt", "eq", "ne"]), st.integers(-2, 2), st.booleans()
    ),
    st.tuples(st.just("ones")),
    st.tuples(st.just("tril"), st.integers(-1, 1)),
    st.tuples(st.just("triu"), st.integers(-1, 1)),
    st.tuples(st.just("stored"), st.integers(0, 1)),
    st.tuples(st.just("bound"), st.integers(-1, 3)),
)
masks = st.recursive(
    leaf,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["and", "or", "xor"]), inner, inner),
        st.tuples(st.sampled_from(["not", "transpose", "unsqueeze", "expand", "tril of", "triu of"]), inner),
    ),
    max_leaves=5,
)


def build(tree, m, n):
    """A boolean mask [..., n, n] of a random expression."""
    kind, *rest = tree
    if kind == "compare":
        a, b = positions(n) + rest[1], rows(n)
        a, b = (b, a) if rest[2] else (a, b)
        return getattr(torch, rest[0])(a, b)
    if kind == "ones":
        return torch.ones(n, n, dtype=torch.bool)
    if kind in ("tril", "triu"):
        return getattr(torch.ones(n, n, dtype=torch.bool), kind)(rest[0])
    if kind == "stored":
        return m.stored[rest[0] : n + rest[0], :n]
    if kind == "bound":
        return (positions(n) + rest[0] >= 0).expand(n, n)
    inner = [build(part, m, n) for part in rest]
    if kind in ("and", "or", "xor"):
        return getattr(torch, f"logical_{kind}")(*inner)
    (mask,) = inner
    if kind == "not":
        return ~mask
    if kind == "transpose":
        return mask.transpose(-1, -2)
    if kind == "unsqueeze":
        return mask.unsqueeze(0)
    if kind == "expand":
        return mask.expand(2, *mask.shape[-2:]) if mask.dim() == 2 else mask
    return getattr(mask, kind.split()[0])()


FORMS = {
    "boolean": lambda mask: mask,
    "added": lambda mask: torch.where(mask, 0.0, LOWEST),
    "added, the other way": lambda mask: torch.where(mask, -math.inf, 0.0),
    "computed": lambda mask: (1.0 - mask.float()) * -1e9,
    "filled": lambda mask: torch.zeros(mask.shape).masked_fill(mask, -1e9),
    "times": lambda mask: mask.float() * LOWEST,
}


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(tree=masks, form=st.sampled_from(sorted(FORMS)))
def test_what_is_proved_about_random_masks_is_true(trace_module, tree, form):
    verdict(trace_module, lambda m, n, x: FORMS[form](build(tree, m, n)), sizes=(2, 3, 4, 7), **buffers())
