"""Linears on a CPU: every form computes the same, epilogues included, and the choice is measured."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from graphwright.ir.node import bound
from graphwright.lowering.eager import linear as linear_module
from graphwright.lowering.eager.linear import LinearCall
from graphwright.lowering.eager.linears import place_linears
from graphwright.lowering.eager.speeds import Speeds
from graphwright.lowering.registry import target
from graphwright.passes.pipeline import Pipeline

MODES = ("auto", "mkl", "onednn", "packed")


class Layers(nn.Module):
    """Linears followed by each epilogue, one with a transposed weight, one that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(256, 256, bias=i % 3 > 0) for i in range(8)])
        self.conv = nn.Parameter(torch.randn(256, 300))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(3)

    def forward(self, x):
        a, b, c, d, e, f, g, h = self.layers
        y = F.gelu(a(x)) + F.gelu(b(x), approximate="tanh") + F.relu(c(x))
        y = d(y) + x
        z = torch.add(x, e(y), alpha=2) + F.silu(f(y)).tanh()
        shared = g(z)
        return shared + shared.sigmoid() + h(z)[..., :1], z @ self.conv


def assert_near(have, want):
    """Equal but for rounding: 1e-5 of the largest value is 80 units in the last place, for sums of 256 products."""
    for actual, expected in zip(*((t,) if isinstance(t, torch.Tensor) else t for t in (have, want)), strict=True):
        largest = float(expected.abs().max()) if expected.numel() else 1.0
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * largest)


@pytest.fixture(autouse=True)
def speeds(monkeypatch, tmp_path):
    """Measured speeds of this test alone."""
    found = Speeds(tmp_path / "speeds.json")
    monkeypatch.setattr(linear_module, "user_speeds", lambda: found)
    return found


@pytest.fixture(scope="module")
def module():
    return Layers()


@pytest.fixture(scope="module")
def program(module, trace_module):
    return (
        Pipeline("canonicalize,conv1d-to-linear")
        .run(trace_module(module, torch.randn(3, 5, 256), dynamic=(0, 1)))
        .program
    )


def calls(program):
    return [node for node in program.graph.nodes if isinstance(node.target, LinearCall)]


@pytest.mark.parametrize("mode", MODES)
def test_all_forms_compute_the_same(mode, module, program):
    artifact = target(f"eager{{linear={mode}}}").lower(program)
    with torch.no_grad():
        for shape in ((3, 5, 256), (1, 1, 256), (2, 70, 256)):
            x = torch.randn(shape)
            assert_near(artifact(x), module(x))
            assert_near(artifact(x.transpose(0, 1)), module(x.transpose(0, 1)))


@pytest.mark.parametrize("form", ["onednn", "onednn+", "packed", "packed+"])
def test_each_form_alone(form, program, module):
    placed = calls(place_linears(program, "packed"))
    epilogues = {call.target.epilogue.name for call in placed}
    assert epilogues == {"none", "gelu none", "gelu tanh", "relu", "swish", "add"}
    torch.manual_seed(0)
    x, w, b, other = torch.randn(7, 64), torch.randn(48, 64), torch.randn(96)[::2], torch.randn(7, 48)
    packed = torch.ops.mkldnn._reorder_linear_weight(w, None)
    for call in placed:
        epilogue = call.target.epilogue
        run = linear_module._forms(epilogue).get(form)
        rest = other if epilogue.name == "add" else None
        if run is not None:
            plain = linear_module._forms(epilogue)["mkl"](x, w, packed, b, rest)
            assert_near(run(x, w, packed, b, rest), plain)


def test_what_is_placed(program):
    assert len(calls(place_linears(program, "auto"))) == 9
    assert place_linears(program, "mkl") is program
    assert place_linears(program, "auto", least=1 << 30) is program
    scaled = [node for node in program.graph.nodes if "add" in str(node.target) and bound(node).get("alpha") == 2]
    assert len(scaled) == 1  # an add with a factor is no residual
    copy = place_linears(program, "auto")
    assert [n.target for n in copy.graph.nodes if "add" in str(n.target)].count(scaled[0].target) >= 1


def test_other_dtypes_are_left_alone(trace_module):
    module = nn.Linear(256, 256).double()
    program = trace_module(module, torch.randn(3, 256, dtype=torch.float64))
    assert place_linears(program, "onednn") is program


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="no bfloat16 in oneDNN here")
def test_bfloat16(trace_module):
    module = nn.Sequential(nn.Linear(256, 256), nn.GELU()).bfloat16()
    x = torch.randn(3, 256, dtype=torch.bfloat16)
    program = Pipeline("canonicalize").run(trace_module(module, x)).program
    assert len(calls(place_linears(program, "packed"))) == 1
    with torch.no_grad():
        have = target("eager{linear=packed}").lower(program)(x)
        exact = module.double()(x.double())
    assert have.dtype == torch.bfloat16
    torch.testing.assert_close(have.double(), exact, rtol=2**-7, atol=2**-7)  # one rounding to 8 bits, or two


@pytest.mark.parametrize("mode", MODES)
def test_gradients_and_training(mode, module, program):
    artifact = target(f"eager{{linear={mode}}}").lower(program)
    x = torch.randn(3, 5, 256)
    with torch.no_grad():
        artifact(x)
    grads = torch.autograd.grad(sum(t.sin().sum() for t in artifact(x)), list(module.parameters()))
    wanted = torch.autograd.grad(sum(t.sin().sum() for t in module(x)), list(module.parameters()))
    for have, want in zip(grads, wanted, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-3, atol=1e-2 * float(want.abs().max()))


@pytest.mark.parametrize("mode", MODES)
def test_changed_weights_are_noticed(mode, trace_module):
    module = nn.Sequential(nn.Linear(256, 300), nn.GELU())
    program = Pipeline("canonicalize").run(trace_module(module, torch.randn(3, 256))).program
    artifact = target(f"eager{{linear={mode}}}").lower(program)
    assert len(calls(artifact._function._fast_program)) == (mode != "mkl")
    x = torch.randn(3, 256)

    def in_place():
        module[0].weight.mul_(2)

    def through_data():
        module[0].weight.data.add_(1)

    def other_memory():
        module[0].weight.data = torch.randn(300, 256)

    def loaded():
        module.load_state_dict({"0.weight": torch.randn(300, 256), "0.bias": torch.randn(300)})

    with torch.no_grad():
        for change in (in_place, through_data, other_memory, loaded):
            assert_near(artifact(x), module(x))
            change()
            assert_near(artifact(x), module(x))


def test_only_packed_copies_weights(program, module):
    x = torch.randn(3, 5, 256)
    for mode in MODES:
        artifact = target(f"eager{{linear={mode}}}").lower(program)
        with torch.no_grad():
            artifact(x)
        shared = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
        kept = [v for v in artifact._function._fast._values if v.layout == torch.strided]
        copies = [v for v in artifact._function._fast._values if v.layout != torch.strided]
        assert all(value.untyped_storage().data_ptr() in shared for value in kept)
        assert bool(copies) == (mode == "packed")


def test_autocast_keeps_its_meaning(program, module):
    artifact = target("eager{linear=onednn}").lower(program)
    x = torch.randn(3, 5, 256)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(artifact(x), module(x))


def test_the_choice_is_measured_once(program, speeds, monkeypatch):
    artifact = target("eager").lower(program)
    with torch.no_grad():
        artifact(torch.randn(3, 5, 256))
        before = dict(speeds._seconds)
        assert before and all({"mkl", "onednn"} <= set(known) for known in before.values())
        monkeypatch.setattr("graphwright.lowering.eager.speeds.timed", lambda forms: pytest.fail("timed again"))
        artifact(torch.randn(2, 6, 256))  # as many rows, to a power of two
        target("eager").lower(program)(torch.randn(3, 5, 256))
    assert speeds._seconds == before


def test_saved_artifacts_keep_the_option(program, module, tmp_path):
    from graphwright.lowering.artifact import load_artifact

    target("eager{linear=onednn}").lower(program).save(tmp_path / "out")
    loaded = load_artifact(tmp_path / "out")
    assert "linear=onednn" in loaded.target
    x = torch.randn(3, 5, 256)
    with torch.no_grad():
        assert_near(loaded(x), module(x))


def test_no_rows():
    weight = torch.randn(8, 4)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    for backend in ("mkl", "onednn", "packed"):
        call = LinearCall((backend,), linear_module.Epilogue("relu", F.relu, "relu"))
        assert call(torch.randn(2, 0, 4), weight, packed, None).shape == (2, 0, 8)


def test_programs_that_write_in_place_are_left_alone(trace_module):
    class Writes(nn.Linear):
        def forward(self, x):
            x = x + 1
            y = super().forward(x)
            x.mul_(2)
            return F.relu(y) + x

    module = Writes(256, 256)
    program = trace_module(module, torch.randn(3, 256))
    x = torch.randn(3, 256)
    with torch.no_grad():
        for mode in MODES:
            artifact = target(f"eager{{linear={mode}}}").lower(program)
            assert calls(artifact._function._fast_program) == []
            assert_near(artifact(x), module(x))
