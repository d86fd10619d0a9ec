"""Branches on values: captured as the example takes them, refused for inputs that take others; traced `vmap`s."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

from graphwright.frontends.capture import capture
from graphwright.frontends.export import export_program
from graphwright.ir.errors import CaptureError, InputError, UnsupportedError
from graphwright.ir.program import Program
from graphwright.passes.pipeline import Pipeline

REQUIRE = torch.ops.graphwright.require.default


class Branches(torch.nn.Module):
    """Asks questions of its buffers and of one input, and moves a layer to where it is."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4).double()
        self.register_buffer("padding", torch.tensor(2))
        self.register_buffer("active", torch.tensor([0.0, 1.0]))

    def forward(self, x, mask):
        self.linear = self.linear.to(x.dtype)
        x = torch.nn.functional.pad(x, (0, 0, self.padding, self.padding - 1))
        if self.active[1] > 0:
            x = self.linear(x)
        if not mask.all():
            x = x * mask.sum()
        return x[:, : self.padding + 3]


def inputs(batch: int, length: int) -> dict[str, torch.Tensor]:
    return {
        "x": torch.randn(batch, length, 4, dtype=torch.float64),
        "mask": torch.ones(batch, length, dtype=torch.bool),
    }


def requirements(program: Program) -> list[torch.fx.Node]:
    return list(program.graph.find_nodes(op="call_function", target=REQUIRE))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Branches()


@pytest.fixture(scope="module")
def program(model):
    return capture(model, inputs(3, 7))


def test_answers_of_buffers_are_part_of_the_program(program):
    assert [node.args[1:2] for node in requirements(program)] == [("True",)]
    assert {*program.state} == {"linear.weight", "linear.bias"}


@pytest.mark.parametrize("passes", ["", "canonicalize"])
def test_other_answers_are_refused(program, model, passes, tmp_path):
    made = Pipeline(passes).run(program).program if passes else program
    loaded = Program.load(made.save(tmp_path / "saved"))
    given = inputs(2, 5)
    for one in (made, loaded):
        torch.testing.assert_close(one.run(**given), model(**given), rtol=0, atol=1e-12)
        with pytest.raises(InputError, match=r"test_answers\.py"):
            one.run(given["x"], mask=torch.zeros(2, 5, dtype=torch.bool))


def test_a_target_without_the_check_refuses_the_program(program):
    pytest.importorskip("onnx_ir")
    from graphwright.lowering.onnx.target import OnnxTarget

    with pytest.raises(UnsupportedError, match="require"):
        OnnxTarget().lower(program)


def test_nothing_is_assumed_unasked(model):
    with pytest.raises(CaptureError, match="data-dependent"):
        export_program(model, (), inputs(3, 7), assume=False)


def test_branches_on_random_numbers_are_refused():
    class Random(torch.nn.Module):
        def forward(self, x):
            return x + 1 if torch.rand(()) < 0.5 else x - 1

    with pytest.raises(CaptureError, match="random numbers"):
        capture(Random(), torch.ones(3, 2))


def test_parameters_may_change():
    class Gated(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = torch.nn.Parameter(torch.tensor(1.0))

        def forward(self, x):
            return x * 2 if self.gate > 0 else x

    gated = Gated()
    made = capture(gated, torch.ones(3, 2))
    with torch.no_grad():
        gated.gate.fill_(-1.0)
    with pytest.raises(InputError):
        made.run(torch.ones(3, 2))


class Mapped(torch.nn.Module):
    """A causal mask with padding, made by `vmap` as transformers makes masks of functions."""

    def forward(self, x, mask):
        def keep(b, i, j):
            return mask[b, j] & (j <= i)

        batch, length = torch.arange(x.shape[0]), torch.arange(x.shape[1])
        rows = torch.vmap(torch.vmap(keep, (None, None, 0)), (None, 0, None))
        with TransformGetItemToIndex():
            kept = torch.vmap(rows, (0, None, None))(batch, length, length)
        return kept.to(x.dtype) @ x


def test_a_vmap_is_traced_through():
    given = inputs(3, 7)
    made = capture(Mapped(), (given["x"], given["mask"]), dynamic={"x": {0: "batch", 1: "n"}, "mask": ("batch", "n")})
    for node in made.nodes:
        value = node.meta.get("val")
        assert node.op != "call_function" or isinstance(node.target, torch._ops.OpOverload)
        assert not isinstance(value, torch.Tensor) or not torch._C._functorch.is_functorch_wrapped_tensor(value)
    x, mask = torch.randn(2, 5, 4, dtype=torch.float64), torch.rand(2, 5) > 0.3
    torch.testing.assert_close(made.run(x, mask=mask), Mapped()(x, mask), rtol=0, atol=1e-12)


@pytest.mark.slow
def test_a_model_that_looks_for_global_attention():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LEDConfig(
        vocab_size=64,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        attention_window=4,
        max_encoder_position_embeddings=64,
        max_decoder_position_embeddings=64,
    )
    led = transformers.LEDForConditionalGeneration(config).eval().double()
    ids = torch.randint(3, 64, (2, 8))
    given = {"input_ids": ids, "decoder_input_ids": ids[:, :5], "use_cache": False}
    flags = torch.zeros_like(ids)
    made = capture(led, {**given, "global_attention_mask": flags}, dynamic=None)
    given = {**given, "input_ids": ids.flip(1)}
    ours, theirs = made.run(**given, global_attention_mask=flags), led(**given, global_attention_mask=flags)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=0, atol=1e-12)
    with pytest.raises(InputError, match=r"modeling_led\.py"):
        made.run(**given, global_attention_mask=torch.ones_like(ids))


class Steps(torch.nn.Module):
    """As many steps as there are blocks of four: torch takes their number for a part of the model."""

    def forward(self, x):
        steps = (x.shape[1] - 1) // 4 + 1
        return torch.linspace(0.5, steps - 0.5, steps) + x.mean()


def test_a_computed_size_that_is_fixed_refuses_others():
    program = capture(Steps(), (torch.randn(2, 30),))
    for length in (29, 32):
        x = torch.randn(3, length)
        torch.testing.assert_close(program.run(x), Steps()(x))
    with pytest.raises(InputError):
        program.run(torch.randn(2, 33))
