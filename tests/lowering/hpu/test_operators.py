"""The reference kernels against ATen, and calls fitted to other schemas than the published ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention, silu

from graphwright.ir.library import rotary_embedding
from graphwright.ir.packed import dequantize
from graphwright.lowering.hpu import hpu_kernels, hpu_ops
from graphwright.lowering.hpu.packed import pack_words

EXACT = {"rtol": 1e-12, "atol": 1e-12}
"""Both sides compute in float64."""


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape) + shape[-1]))


def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, causal: bool) -> torch.Tensor:
    options = (0.0, 0.3, causal, False, "None", None, "left")
    return hpu_ops.find("sdpa_recomp_fwd")(q, k, v, mask, *options)[0]


@pytest.mark.parametrize("kind", ["plain", "causal", "boolean", "added"])
def test_attention(kind: str) -> None:
    q, k, v = normal(2, 4, 5, 8), normal(2, 4, 7, 8), normal(2, 4, 7, 6)
    q = normal(2, 4, 7, 8) if kind == "causal" else q
    keep = torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(0)) > 0.3
    keep[..., 0] = True
    mask = {"boolean": keep, "added": normal(2, 1, 5, 7)}.get(kind)
    want = scaled_dot_product_attention(q, k, v, mask, is_causal=kind == "causal", scale=0.3)
    torch.testing.assert_close(sdpa(q, k, v, mask, kind == "causal"), want, **EXACT)


@pytest.mark.parametrize("side", ["left", "right"])
def test_attention_of_valid_lengths(side: str) -> None:
    """Padding is on the named side; rows of real queries are compared."""
    q, k, v, length = normal(2, 4, 6, 8), normal(2, 4, 6, 8), normal(2, 4, 6, 8), torch.tensor([6, 4])
    have = hpu_ops.find("sdpa_recomp_fwd")(q, k, v, None, 0.0, 0.3, True, False, "None", length, side)[0]
    part = slice(2, 6) if side == "left" else slice(0, 4)
    want = scaled_dot_product_attention(q[1:, :, part], k[1:, :, part], v[1:, :, part], is_causal=True, scale=0.3)
    torch.testing.assert_close(have[1:, :, part], want, **EXACT)
    torch.testing.assert_close(have[:1], scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)[:1], **EXACT)


def test_attention_with_grouped_heads() -> None:
    q, k, v = normal(2, 4, 5, 8), normal(2, 2, 7, 8), normal(2, 2, 7, 8)
    want = scaled_dot_product_attention(q, k, v, scale=0.3, enable_gqa=True)
    have = sdpa(q.unflatten(1, (2, 2)), k.unsqueeze(2), v.unsqueeze(2), None, False).flatten(1, 2)
    torch.testing.assert_close(have, want, **EXACT)


def test_attention_refuses_what_the_vendor_refuses() -> None:
    q = normal(1, 2, 4, 8)
    with pytest.raises(ValueError, match="not both"):
        sdpa(q, q, q, torch.zeros(4, 4), True)
    with pytest.raises(ValueError, match="is_causal only"):
        hpu_ops.find("sdpa_recomp_fwd")(q, q, q, None, 0.0, 1.0, False, False, "None", torch.tensor([2]), "left")


def test_norm_and_rotary() -> None:
    x, weight = normal(2, 3, 8), normal(8)
    norm, inverse = hpu_ops.find("rms_norm")(x, weight, 1e-5)
    torch.testing.assert_close(norm, torch.rms_norm(x, [8], weight, 1e-5), **EXACT)
    torch.testing.assert_close(x * inverse * weight, norm, **EXACT)
    angles = normal(3, 8)
    for interleaved in (False, True):
        want = rotary_embedding(x, angles.cos(), angles.sin(), interleaved=interleaved)
        have = hpu_ops.find("rotary_pos_embedding")(x, angles.sin(), angles.cos(), None, 0, int(interleaved))
        torch.testing.assert_close(have, want, **EXACT)


@pytest.mark.parametrize("permuted", [True, False])
def test_experts(permuted: bool) -> None:
    """Each token's own experts, one after the other."""
    x, table = normal(5, 8), torch.tensor([[0, 2], [1, 2], [2, 0], [0, 1], [1, 0]])
    weights, w12, w3 = normal(5, 2).softmax(-1), normal(3, 24, 8), normal(3, 8, 12)
    want = torch.zeros_like(x)
    for row, (chosen, shares) in enumerate(zip(table, weights, strict=True)):
        for number, share in zip(chosen.tolist(), shares, strict=True):
            gate, up = (w12[number] @ x[row]).chunk(2)
            want[row] += share * (w3[number] @ (silu(gate) * up))
    turn = (lambda part: part) if permuted else (lambda part: part.T)
    rest = (permuted, "silu", 0, 2)
    lists = [[turn(part) for part in stack] for stack in (w12, w3)]
    have = hpu_ops.find("mixture_of_experts.fused_weights")(x, table, weights, *lists, *rest)
    torch.testing.assert_close(have, want, **EXACT)
    split = [[turn(part) for part in stack] for stack in (w12[:, :12], w12[:, 12:], w3)]
    have = hpu_ops.find("mixture_of_experts")(x, table, weights, *split, *rest)
    torch.testing.assert_close(have, want, **EXACT)


def test_codes_of_4_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    codes, zeros = (torch.randint(0, 16, shape, generator=generator) for shape in ((16, 32), (16, 4)))
    scales = torch.rand(16, 4, generator=generator)
    want = dequantize(codes.to(torch.uint8), scales, zeros.to(torch.uint8), None, 4, 8)
    words, points = pack_words(codes.T), pack_words(zeros.T)
    assert words.dtype == torch.int32 and words.shape == (32, 2) and int(words.min()) < 0
    have = hpu_ops.find("convert_from_uint4")(words, scales.T.contiguous(), points, torch.float32)
    torch.testing.assert_close(have, want.T, rtol=0, atol=0)


def test_products_in_8_bits() -> None:
    """Values that 8 bits hold exactly: only the scales and the order of sums are in play."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(-8, 9, shape, generator=generator).float() for shape in ((3, 5, 16), (8, 16)))
    cast, product = hpu_ops.find("cast_to_fp8_v2"), hpu_ops.find("fp8_gemm_v2")
    left, amax = cast(a / 4, torch.tensor(4.0), False, True, torch.float8_e4m3fn, None)
    right, _ = cast(b, None, False, False, torch.float8_e4m3fn, None)
    bias, scale = torch.randn(8, generator=generator), torch.rand(8, generator=generator)
    have = product(left, False, right, True, None, torch.float32, torch.tensor(0.25), scale, bias, False, None)
    torch.testing.assert_close(have, (a / 4) @ b.T * scale + bias, rtol=1e-6, atol=1e-5)
    assert float(amax) == 2.0
    assert not cast(torch.tensor([1e9]), None, False, False, torch.float8_e4m3fn, None)[0].float().isinf()


# ---- other schemas -------------------------------------------------------------------------------


def schema(text: str) -> torch._C.FunctionSchema:
    return torch._C.parse_schema(text)


OLD = "f(Tensor q, float scale, str mode) -> Tensor"


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        (OLD, [(0, None), (1, None), (2, None)]),
        (
            "f(Tensor q, float scale, str mode, Tensor? sinks) -> Tensor",
            [(0, None), (1, None), (2, None), (None, None)],
        ),
        ("f(Tensor q, float scale, str mode, int chunk=3) -> Tensor", [(0, None), (1, None), (2, None), (None, 3)]),
        ("f(Tensor q, Tensor? g, float scale, str mode) -> Tensor", [(0, None), (None, None), (1, None), (2, None)]),
        ("f(Tensor q, float scale, str modem) -> Tensor", [(0, None), (1, None), (2, None)]),
        (
            "f(Tensor q, float scale, str mode, int[] window_size) -> Tensor",
            [(0, None), (1, None), (2, None), (None, (-1, -1))],
        ),
    ],
)
def test_places(installed: str, expected: list[tuple[int | None, object]]) -> None:
    assert list(hpu_ops.places(schema(OLD), schema(installed))) == expected


def test_places_that_nobody_knows() -> None:
    with pytest.raises(hpu_ops.SchemaError, match=r"'blocks'.* is new"):
        hpu_ops.places(schema(OLD), schema("f(Tensor q, float scale, str mode, int blocks) -> Tensor"))
    with pytest.raises(hpu_ops.SchemaError, match="does not take 'mode'"):
        hpu_ops.places(schema(OLD), schema("f(Tensor q, float scale) -> Tensor"))


def test_every_kernel_is_registered_under_its_schema() -> None:
    for name in hpu_kernels.SCHEMAS:
        want = schema(f"hpu::{hpu_kernels.SCHEMAS[name]}")
        assert str(hpu_ops.overload(name)._schema) == str(want)


BRIDGE = """
import torch
from torch import Tensor
from graphwright.lowering.hpu import hpu_kernels as kernels

LIBRARY = torch.library.Library("hpu", "FRAGMENT")
seen = []


def define(schema, kernel):
    name = schema.partition("(")[0]
    LIBRARY.define(schema)
    LIBRARY.impl(name, kernel, "CPU")
    torch.library.register_fake(f"hpu::{name}", kernel, lib=LIBRARY)


def attention(q, k, v, attention_mask, p, scale, is_causal, requires_backward, softmax_mode, valid_seq_len,
              seq_padding_type, window_size, sinks=None):
    seen.append(("attention", tuple(window_size), sinks))
    return kernels.sdpa_recomp_fwd(q, k, v, attention_mask, p, scale, is_causal, requires_backward, softmax_mode,
                                   valid_seq_len, seq_padding_type)


def unpack(qweight, scale, zero_point, out_dtype, g_idx=None):
    seen.append(("unpack", g_idx is not None))
    codes, zeros = kernels._codes(qweight), kernels._codes(zero_point)
    group = g_idx.long() if g_idx is not None else torch.arange(len(codes)) // (len(codes) // len(scale))
    return ((codes - zeros[group]) * scale[group]).to(out_dtype)


define("sdpa_recomp_fwd(Tensor q, Tensor k, Tensor v, Tensor? attention_mask, float p, float scale, bool is_causal,"
       " bool requires_backward, str softmax_mode, Tensor? valid_seq_len, str seq_padding_type, int[] window_size,"
       " Tensor? sinks=None) -> (Tensor, Tensor, Tensor, Tensor)", attention)
define("convert_from_uint4(Tensor qweight, Tensor scale, Tensor? zero_point, ScalarType out_dtype, Tensor? g_idx=None)"
       " -> Tensor", unpack)
for name in ("rms_norm", "rotary_pos_embedding"):
    define(kernels.SCHEMAS[name], kernels.KERNELS[name])
"""

SCRIPT = """
import sys
sys.path[:0] = [{tests!r}, {bridge!r}]
import torch, graphwright as gw
from test_models import build, lowered, scatter_groups
from habana_frameworks.torch import core

program = gw.Pipeline("canonicalize,quantize-rtn{{bits=4,group_size=16}}").run(gw.capture(build("llama"))).program
scatter_groups(program)
artifact = lowered(program)
core.seen.clear()
gw.compare(program, artifact)
assert ("attention", (-1, -1), None) in core.seen and ("unpack", True) in core.seen, core.seen
assert not any("index_select" in call for calls in artifact.provenance.values() for call in calls)
artifact.save({out!r})
"""


@pytest.mark.slow
def test_a_bridge_with_newer_operators(tmp_path: Path) -> None:
    """Installed schemas are read: arguments that were added are filled in, and used where they help.

    The saved modules call the operators through their published arguments, so they run beside the newer bridge too.
    """
    package = tmp_path / "bridge" / "habana_frameworks" / "torch"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    (package / "core.py").write_text(BRIDGE)
    names = {"tests": str(Path(__file__).parent), "bridge": str(tmp_path / "bridge"), "out": str(tmp_path / "out")}
    run([sys.executable, "-c", SCRIPT.format(**names)])
    text = next((tmp_path / "out" / "modules").iterdir()).read_text()
    assert "g_idx=" in text and "window_size" not in text
    script = str(tmp_path / "out" / "run.py")
    start = (
        f"import runpy, sys; sys.path.insert(0, {names['bridge']!r}); runpy.run_path({script!r}, run_name='__main__')"
    )
    assert "ok" in run([sys.executable, "-c", start])


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
