"""The eager target: artifacts, folded weights, files."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphwright.ir.errors import FileFormatError, InputError
from graphwright.lowering.artifact import load_artifact
from graphwright.lowering.eager.folding import weight_expressions
from graphwright.lowering.registry import target
from graphwright.passes.pipeline import Pipeline


class Siblings(nn.Module):
    """Two linears on one input, written as one on concatenated weights, and a mask made of a buffer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)
        self.register_buffer("offset", torch.ones(6))

    def forward(self, x):
        weight = torch.cat([self.a.weight, self.b.weight])
        return torch.nn.functional.linear(x, weight).relu() + self.offset.view(1, 6), self.a.bias.view(1, 3) * x.sum()


@pytest.fixture
def module():
    return Siblings()


@pytest.fixture
def program(module, trace_module):
    return Pipeline("canonicalize").run(trace_module(module, torch.randn(3, 4), dynamic=(0,))).program


@pytest.mark.parametrize("fold", ["all", "views", "never"])
def test_run(fold, module, program):
    artifact = target(f"eager{{fold={fold}}}").lower(program)
    for grad in (False, True, False):
        with torch.set_grad_enabled(grad):
            x = torch.randn(5, 4)
            outputs = artifact.run(x=x)
            torch.testing.assert_close(list(outputs.values()), list(module(x)))
            torch.testing.assert_close(artifact(x), module(x))
    assert tuple(outputs) == artifact.output_names


def test_wrong_inputs(program):
    artifact = target("eager").lower(program)
    with pytest.raises(InputError, match="dtype"):
        artifact.run(x=torch.ones(3, 4, dtype=torch.float64))
    with pytest.raises(InputError, match="missing"):
        artifact.run()


def test_what_is_folded(program):
    folded = {mode: {node.name for node in weight_expressions(program, mode)} for mode in ("all", "views", "never")}
    assert any(name.startswith("cat") for name in folded["all"])
    assert not any(name.startswith("cat") for name in folded["views"])
    assert folded["never"] == set()
    artifact = target("eager").lower(program)
    code = artifact._function._fast.function.module.code
    assert "torch.cat" not in code
    assert "torch.cat" in artifact.module.code


def test_folded_values_follow_the_weights(module, program):
    artifact = target("eager").lower(program)
    x = torch.randn(3, 4)
    with torch.no_grad():
        artifact.run(x=x)
        module.a.weight.mul_(2)
        torch.testing.assert_close(artifact(x), module(x))
        module.b.weight.data = module.b.weight.data * 3
        torch.testing.assert_close(artifact(x), module(x))
        first = artifact._function._fast._values
        torch.testing.assert_close(artifact(x), module(x))
        assert artifact._function._fast._values is first


def test_gradients_reach_the_weights(module, program):
    artifact = target("eager").lower(program)
    x = torch.randn(3, 4)
    with torch.no_grad():
        artifact.run(x=x)
    sum(t.sum() for t in artifact(x)).backward()
    found = [p.grad.clone() for p in (module.a.weight, module.b.weight, module.a.bias)]
    module.zero_grad()
    sum(t.sum() for t in module(x)).backward()
    torch.testing.assert_close(found, [module.a.weight.grad, module.b.weight.grad, module.a.bias.grad])


def test_inference_mode_leaves_nothing_behind(module, program):
    artifact = target("eager").lower(program)
    x = torch.randn(3, 4)
    with torch.inference_mode():
        artifact.run(x=x)
    with torch.no_grad():
        artifact.run(x=x)
    sum(t.sum() for t in artifact(x.requires_grad_())).backward()
    assert x.grad is not None


def test_weights_are_shared(module, program):
    artifact = target("eager").lower(program)
    shared = {id(p) for p in module.parameters()}
    weights = [w for w in artifact._function.plain.weights if isinstance(w, nn.Parameter)]
    assert weights
    assert all(id(weight) in shared for weight in weights)


def test_values_are_dropped_after_their_last_use(program):
    code = target("eager").lower(program).module.code
    assert "relu = None" in code or "linear = None" in code


def test_save_and_load(tmp_path, module, program):
    artifact = target("eager{fold=views}").lower(program)
    folder = artifact.save(tmp_path / "artifact")
    loaded = load_artifact(folder)
    assert loaded.target == "eager{fold=views}"
    for rows in (2, 5):
        x = torch.randn(rows, 4)
        torch.testing.assert_close(loaded.run(x=x), artifact.run(x=x))
    weights = next(path for path in folder.rglob("*") if path.suffix == ".safetensors")
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(FileFormatError):
        load_artifact(folder)
