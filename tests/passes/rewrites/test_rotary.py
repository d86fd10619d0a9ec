"""Rotary embeddings in the spellings of transformers models, and the op itself."""

from __future__ import annotations

import pytest
import torch

aten = torch.ops.aten
WIDTH = 8


def data(width=WIDTH, dtype=torch.float32):
    return torch.randn(2, 3, 5, width, generator=torch.Generator().manual_seed(0)).to(dtype)


def angles(width=WIDTH, dtype=torch.float32):
    inverse = 1 / 10 ** (torch.arange(0, width, 2) / width)
    half = torch.arange(5)[:, None] * inverse
    return torch.cat([half, half], -1).to(dtype)


def rotate_half(x):
    first, second = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat((-second, first), dim=-1)


def rotate_pairs(x):
    return torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)


def llama(x, a):
    return x * a.cos() + rotate_half(x) * a.sin()


def chunked(x, a):
    first, second = x.chunk(2, -1)
    return x * a.cos() + torch.cat((-second, first), -1) * a.sin()


def gptj(x, a):
    a = a[:, : a.shape[-1] // 2].repeat_interleave(2, -1)
    return x * a.cos() + rotate_pairs(x) * a.sin()


def roformer(x, a):
    turned = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).reshape_as(x)
    return x * a.cos() + turned * a.sin()


def neox(x, a):
    part, rest = x[..., :4], x[..., 4:]
    cos, sin = a[:, :4].cos(), a[:, :4].sin()
    return torch.cat((part * cos + rotate_half(part) * sin, rest), dim=-1)


def neox_pairs(x, a):
    part, rest = x[..., :4], x[..., 4:]
    cos, sin = a[:, :4].cos(), a[:, :4].sin()
    return torch.cat((part * cos + rotate_pairs(part) * sin, rest), dim=-1)


def gpt_oss(x, a):
    cos, sin = a[:, :4].cos(), a[:, :4].sin()
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "spell", [llama, chunked, gptj, roformer, neox, neox_pairs, gpt_oss], ids=lambda spell: spell.__name__
)
def test_spellings_are_exact(trace, rewrite, spell, dtype):
    done = rewrite(trace(spell, data(dtype=dtype), angles(dtype=dtype), dynamic=()), "fuse-rotary")
    assert done.ops("rotary_embedding") == 1
    assert not done.ops("neg") and done.error == 0


def llama4(x, a):
    frequencies = torch.polar(torch.ones_like(a[:, :4]), a[:, :4])
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * frequencies[None, None]).flatten(3)


def llama4_heads(x, a):
    """Heads are split off together with the pairs, in one reshape."""
    frequencies = torch.polar(torch.ones_like(a[:, :4]), a[:, :4])
    pairs = torch.view_as_complex(x.transpose(1, 2).flatten(2).reshape(2, 5, 3, 4, 2))
    return torch.view_as_real(pairs * frequencies[None, :, None]).flatten(3)


@pytest.mark.parametrize("spell", [llama4, llama4_heads])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_complex_products(trace, rewrite, dtype, spell):
    done = rewrite(trace(spell, data(dtype=dtype), angles(dtype=dtype)), "fuse-rotary,canonicalize")
    assert done.ops("rotary_embedding") == 1
    assert not any(
        node.meta["val"].is_complex() for node in done.program.nodes if torch.is_tensor(node.meta.get("val"))
    )


def unequal(x, a):
    first, second = x[..., :3], x[..., 3:]
    return x * a.cos() + torch.cat((-second, first), -1) * a.sin()


def swapped(x, a):
    first, second = x.chunk(2, -1)
    return x * a.cos() + torch.cat((-first, second), -1) * a.sin()


def gap(x, a):
    part, rest = x[..., :4], x[..., 5:]
    return torch.cat((part * a[:, :4].cos() + rotate_half(part) * a[:, :4].sin(), rest), dim=-1)


def broadcast(x, a):
    x = x[:, :1]
    return x * a.expand(2, 3, 5, WIDTH).cos() + rotate_half(x) * a.sin()


@pytest.mark.parametrize(
    ("spell", "reason"),
    [
        (unequal, "is not the second half"),
        (swapped, "is not the second half"),
        (broadcast, "the angles are larger"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_near_misses_say_why(trace, rewrite, spell, reason):
    done = rewrite(trace(spell, data(), angles()), "fuse-rotary")
    assert not done.fired
    assert reason in done.reasons


def test_a_part_that_does_not_reach_the_rest_is_rotated_by_itself(trace, rewrite):
    assert rewrite(trace(gap, data(), angles()), "fuse-rotary").fired == {"Rotary": 1}


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rotated", [4, WIDTH])
def test_the_op_rotates_pairs_and_has_gradients(interleaved, rotated):
    x = data(dtype=torch.float64).requires_grad_()
    a = angles(rotated, torch.float64)
    a = a[:, : rotated // 2].repeat_interleave(2, -1) if interleaved else a
    op = torch.ops.graphwright.rotary_embedding
    result = op(x, a.cos(), a.sin(), interleaved=interleaved)
    torch.testing.assert_close(result.square().sum(), x.square().sum())
    torch.testing.assert_close(op(result, a.cos(), -a.sin(), interleaved=interleaved), x)
    assert torch.equal(result[..., rotated:], x[..., rotated:])
    assert torch.autograd.gradcheck(lambda x: op(x, a.cos(), a.sin(), interleaved=interleaved), (x,))
