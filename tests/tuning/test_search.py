"""Tuning: the bound holds, what costs least goes first, an interrupted search goes on, bad settings are refused."""

from __future__ import annotations

import json

import pytest
import torch

import graphwright as gw
from graphwright.ir.errors import FileFormatError, GraphwrightError, InputError, PassError, PipelineError
from graphwright.passes.quant.calibrate import Calibration
from graphwright.passes.quant.options import Options
from graphwright.passes.quant.sites import find_sites
from graphwright.tuning.choices import FLOAT, Choice, groups_of
from graphwright.tuning.search import allowed_drop, tune

packed_linear = torch.ops.graphwright.packed_linear.default


class Net(torch.nn.Module):
    """Two linears that matter in different degrees: the output of `fine` counts a thousand times more."""

    def __init__(self) -> None:
        super().__init__()
        self.coarse, self.fine = torch.nn.Linear(32, 32), torch.nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.coarse(x) * 1e-3 + self.fine(x)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net().eval()


class Closeness:
    """Minus the relative error, and how often it was asked for."""

    def __init__(self, net: torch.nn.Module) -> None:
        self.calls, self.x = 0, torch.randn(64, 32, generator=torch.Generator().manual_seed(1))
        self.expected = net(self.x).detach()

    def __call__(self, model) -> float:
        self.calls += 1
        return -float((model(self.x) - self.expected).norm() / self.expected.norm())


def program_of(net):
    return gw.capture(net, (torch.randn(4, 32),))


def test_the_smallest_within_the_bound_is_found(net):
    metric, program = Closeness(net), program_of(net)
    every = {
        (a, b): tune(program, metric, 10.0, bits=(a,), group_size=32).best if a == b else None
        for a in (3, 4, 8)
        for b in (3, 4, 8)
    }
    assert every[3, 3].score < every[4, 4].score < every[8, 8].score < 0
    found = tune(program, metric, 0.02, group_size=32)
    assert dict(found.best.choice.bits) == {"coarse": 3, "fine": 8}
    assert found.baseline.score - found.best.score <= 0.02
    assert found.best.size < found.baseline.size
    assert metric(found.program.run) == pytest.approx(found.best.score)
    assert sum(node.target is packed_linear for node in found.program.nodes) == 2


def test_what_no_bits_can_keep_stays_in_floating_point(net):
    found = tune(program_of(net), Closeness(net), 1e-9, group_size=32)
    assert found.best is found.baseline or dict(found.best.choice.bits)["fine"] == FLOAT
    assert found.best.score >= found.baseline.score - 1e-9


def test_a_loss_is_made_no_larger(net):
    metric = Closeness(net)
    found = tune(program_of(net), lambda model: 1 - metric(model), "2%", lower_is_better=True, group_size=32)
    assert found.best.score <= 1.02
    assert dict(found.best.choice.bits)["coarse"] == 3


def test_the_fastest_is_chosen_by_time(net, monkeypatch):
    from graphwright.tuning import search

    times = iter([5.0, 1.0, 2.0, *[3.0] * 50])
    monkeypatch.setattr(search, "interleaved_medians", lambda calls, **_: {"call": next(times)})
    found = tune(program_of(net), lambda model: 1.0, objective="speed", methods=("rtn", "inc-rtn"), group_size=32)
    assert found.best.seconds == 1.0 and found.best.choice.method == "rtn"


def test_an_interrupted_search_goes_on(net, tmp_path):
    metric, program, log = Closeness(net), program_of(net), tmp_path / "trials.jsonl"
    whole = tune(program, metric, 0.02, group_size=32, log=log)
    calls, lines = metric.calls, log.read_text().splitlines()
    assert len(lines) == calls and json.loads(lines[0])["choice"]["method"] == "float"
    log.write_text("\n".join(lines[:3]) + "\n" + lines[3][:20])
    again = tune(program, metric, 0.02, group_size=32, log=log)
    assert metric.calls == calls + len(lines) - 3
    assert again.best.choice == whole.best.choice
    tune(program, metric, 0.02, group_size=16, log=log)
    assert metric.calls > calls + len(lines) - 3, "trials of other settings are not taken over"


def test_a_damaged_log_is_refused(net, tmp_path):
    log = tmp_path / "trials.jsonl"
    for text in ("no json\n{}\n", "no json", '{"run": 1}\n'.replace("1", "{") * 2):
        log.write_text(text)
        with pytest.raises(FileFormatError, match="no log of trials"):
            tune(program_of(net), Closeness(net), log=log, group_size=32)
        assert log.read_text() == text, "a file of something else is left as it is"


def test_calibrated_methods_take_part(net):
    batches = [{"x": torch.randn(16, 32)}]
    found = tune(
        program_of(net), Closeness(net), 0.3, methods=("gptq",), bits=(4,), group_size=32,
        calibration=Calibration(batches),
    )  # fmt: skip
    assert found.best.choice.method == "gptq"
    with pytest.raises(PipelineError, match="needs calibration data"):
        tune(program_of(net), Closeness(net), methods=("gptq",), group_size=32)
    with pytest.raises(PipelineError, match="no quantization method 'magic'"):
        tune(program_of(net), Closeness(net), methods=("magic",), group_size=32)


def test_groups():
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 64}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2)).eval()
    sites = find_sites(gw.Pipeline("canonicalize").run(gw.capture(model), validate=False).program, Options())
    roles, layers = groups_of(sites, "role"), groups_of(sites, "layer")
    assert len(roles) == 7 and all(len(paths) == 2 for paths in roles.values())
    assert "model.layers.*.self_attn.q_proj" in roles
    assert list(layers) == ["model.layers.0", "model.layers.1"]
    assert len(groups_of(sites, "linear")) == 14
    assert str(Choice("rtn", (("a", 4), ("b", FLOAT)))) == "rtn: a=4, b=float"


def test_bounds():
    assert allowed_drop("1%", -50.0) == 0.5 and allowed_drop(0.25, 9.0) == 0.25 and allowed_drop("2", 9.0) == 2
    for text in ("much", "-1%", "nan"):
        with pytest.raises(InputError, match="max_drop cannot be"):
            allowed_drop(text, 1.0)


def test_what_cannot_be_tuned(net):
    with pytest.raises(PassError, match="no linear to tune"):
        tune(gw.capture(torch.nn.ReLU().eval(), (torch.randn(4),)), lambda model: 1.0)
    with pytest.raises(GraphwrightError, match="the metric is nan"):
        tune(program_of(net), lambda model: float("nan"), group_size=32)
