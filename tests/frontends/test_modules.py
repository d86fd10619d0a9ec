"""Plain modules, fx graph modules and exported programs; dynamic dimensions; error texts."""

from __future__ import annotations

import inspect
import logging

import pytest
import torch
from torch.export import Dim

from graphwright.frontends import export
from graphwright.frontends.capture import capture
from graphwright.ir.errors import CaptureError, FileFormatError, InputError

attempt_export = export._attempt


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)

    def forward(self, x, scale=None, *, flip=False):
        y = self.linear(x).relu()
        y = y if scale is None else y * scale
        return {"y": y.flip(1) if flip else y}


class Pair(torch.nn.Module):
    def forward(self, a, b):
        return a.sum(1), b.sum(1)


class Padded(torch.nn.Module):
    """Pads to a multiple of 4, as windowed attention does, and adds one to what was padded."""

    def forward(self, x):
        missing = (-x.shape[1]) % 4
        if missing > 0:
            x = torch.nn.functional.pad(x, (0, missing)) + 1
        return x


class Branching(torch.nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x + 1
        return x - 1


class Fixed(torch.nn.Module):
    def forward(self, x):
        return x.reshape(3, 8)


def dims(program):
    return {dim.name: (dim.min, dim.max) for dim in program.dims}


def line_of(cls, text):
    """`file:line` of the first line of a class that holds `text`."""
    lines, first = inspect.getsourcelines(cls)
    return f"{inspect.getsourcefile(cls)}:{first + next(i for i, line in enumerate(lines) if text in line)}"


@pytest.mark.parametrize("form", ["tuple", "mapping", "tensor"])
def test_inputs(form):
    x, model = torch.randn(3, 5, 8), Block()
    program = capture(model, {"tuple": (x,), "mapping": {"x": x}, "tensor": x}[form])
    other = torch.randn(1, 7, 8)
    assert torch.equal(program.run(other)["y"], model(other)["y"])
    assert torch.equal(program.run(x=other)["y"], model(other)["y"])
    assert program.name == "Block"


def test_flags_are_constants_of_the_program():
    x, model = torch.randn(3, 5, 8), Block()
    program = capture(model, {"x": x, "scale": torch.ones(8), "flip": True})
    assert torch.equal(program.run(x=x, scale=torch.ones(8))["y"], model(x, flip=True)["y"])
    with pytest.raises(InputError, match="flip"):
        program.run(x=x, scale=torch.ones(8), flip=False)


def test_varargs():
    class Sum(torch.nn.Module):
        def forward(self, *parts):
            return sum(parts)

    a, b = torch.randn(3, 5), torch.randn(3, 5)
    assert torch.equal(capture(Sum(), (a, b)).run(a, b), a + b)


def test_automatic_dimensions_promise_nothing():
    program = capture(Pair(), (torch.randn(3, 5), torch.randn(3, 6)))
    one, other = program.run(torch.ones(2, 4), torch.ones(7, 9))
    assert (one.shape, other.shape) == ((2,), (7,))


@pytest.mark.parametrize(
    ("dynamic", "expected"),
    [
        ("auto", {"batch": (1, None), "x_1": (1, None)}),
        (None, {}),
        ({"x": {0: "batch"}}, {"batch": (1, None)}),
        ({"x": {0: "batch", 1: ("length", 2, 64)}}, {"batch": (1, None), "length": (2, 64)}),
        ({"x": {1: Dim("length", min=2, max=64)}}, {"length": (2, 64)}),
        ({"x": {0: Dim.AUTO}}, {"batch": (1, None)}),
        ({"x": ["rows", None, None]}, {"rows": (1, None)}),
        ({"x": {-2: "length"}}, {"length": (1, None)}),
        ({"batch": ...}, {"batch": (1, None)}),
        ({"batch": (2, 16)}, {"batch": (2, 16)}),
        ({"batch": ("rows", 2, 16)}, {"rows": (2, 16)}),
    ],
)
def test_dynamic(dynamic, expected):
    assert dims(capture(Block(), torch.randn(3, 5, 8), dynamic=dynamic)) == expected


def test_equal_names_are_one_dimension():
    program = capture(Pair(), (torch.randn(3, 5), torch.randn(3, 6)), dynamic={"a": {0: "batch"}, "b": {0: "batch"}})
    assert len(program.dims) == 1
    with pytest.raises(InputError, match="both are the dimension 'batch'"):
        program.run(torch.ones(2, 5), torch.ones(7, 6))


def test_names_of_a_sum():
    wanted = {"a": {1: "past"}, "b": {1: "past+now"}, "c": {1: "now"}}

    class Three(torch.nn.Module):
        def forward(self, a, b, c):
            return torch.cat([a, c], 1) * b

    program = capture(Three(), (torch.randn(3, 5), torch.randn(3, 9), torch.randn(3, 4)), dynamic=wanted)
    assert dims(program) == {"past": (1, None), "now": (1, None)}
    assert program.run(torch.ones(3, 2), torch.ones(3, 5), torch.ones(3, 3)).shape == (3, 5)


def test_ranges_are_checked_by_run():
    program = capture(Block(), torch.randn(3, 5, 8), dynamic={"x": {1: ("length", 2, 6)}})
    with pytest.raises(InputError, match=r"\(length\) is 7, allowed are 2 to 6"):
        program.run(torch.randn(3, 7, 8))


def test_example_sizes_of_one_are_doubled():
    program = capture(Block(), torch.randn(1, 1, 8))
    assert dims(program) == {"batch": (1, None), "x_1": (1, None)}
    assert program.example.args[0].shape == (2, 2, 8)


def test_another_branch_is_refused():
    model = Padded()
    program = capture(model, torch.randn(3, 7))
    assert torch.equal(program.run(torch.ones(3, 9)), model(torch.ones(3, 9)))
    with pytest.raises(InputError, match=r"(?s)another path through the model.*test_modules.py"):
        program.run(torch.ones(3, 8))


@pytest.mark.parametrize(
    ("dynamic", "text"),
    [
        ({"z": {0: "batch"}}, "names the input 'z'"),
        ({"sequence": ...}, "(?s)no input has a dimension called 'sequence'.*batch"),
        ({"x": {3: "batch"}}, "has 3 dimensions, dynamic names dimension 3"),
        ({"x": {0: 3.5}}, "3.5 does not describe"),
        ("all", "dynamic='all' is not known"),
        ({"x": {2: "width"}}, "(?s)'width'.*cannot be dynamic.*fixes it to 8"),
        ({"x": {0: ("batch", 9, 4)}}, "cannot be 9 to 4"),
    ],
)
def test_wrong_dynamic(dynamic, text):
    with pytest.raises(InputError, match=text):
        capture(Block(), torch.randn(3, 5, 8), dynamic=dynamic)


def test_data_dependent_branch_is_located():
    with pytest.raises(CaptureError) as caught:
        export.export_program(Branching(), (torch.randn(3, 5),), assume=False)
    assert caught.value.at == line_of(Branching, "if x.sum()")
    assert "attempt 'non-strict'" in caught.value.what
    assert "then 'strict' failed" in str(caught.value)
    assert "torch.where" in caught.value.remedies[0]


def test_a_model_that_fails_itself():
    with pytest.raises(CaptureError, match="the model itself fails on the example inputs") as caught:
        capture(Fixed(), torch.randn(5, 5))
    assert caught.value.at == line_of(Fixed, "reshape")


def test_what_must_be_dynamic_is_not_made_static():
    with pytest.raises((CaptureError, InputError)):
        capture(Fixed(), torch.randn(6, 4), dynamic={"x": {0: "batch"}})
    assert capture(Fixed(), torch.randn(6, 4)).run(torch.ones(6, 4)).shape == (3, 8)


def only_static(module, names, example, attempt, *copied):
    """Stand-in for an export that works with fixed sizes only."""
    if any(attempt.axes):
        raise ValueError("a symbolic size is no number")
    return attempt_export(module, names, example, attempt, *copied)


def test_fallback_to_static_sizes_says_why(monkeypatch, caplog):
    monkeypatch.setattr(export, "_attempt", only_static)
    with caplog.at_level(logging.WARNING, logger="graphwright"):
        assert dims(capture(Pair(), (torch.randn(3, 5), torch.randn(3, 6)))) == {}
    assert "Pair was captured with static sizes: ValueError: a symbolic size is no number" in caplog.text


def test_no_fallback_for_what_was_asked_for(monkeypatch):
    monkeypatch.setattr(export, "_attempt", only_static)
    with pytest.raises(CaptureError, match=r"(?s)attempt 'non-strict'.*then 'strict' failed: ValueError"):
        capture(Pair(), (torch.randn(3, 5), torch.randn(3, 6)), dynamic={"batch": ...})


def test_failed_attempts_print_nothing(capfd):
    with pytest.raises(CaptureError):
        export.export_program(Branching(), (torch.randn(3, 5),), assume=False)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("model", "inputs", "text"),
    [
        (Block(), None, r"(?s)Block needs example inputs.*capture\(model"),
        (Block(), {"y": torch.ones(2, 8)}, "(?s)forward does not take these inputs.*missing a required argument: 'x'"),
        (3, None, "a int cannot be captured"),
    ],
)
def test_wrong_calls(model, inputs, text):
    with pytest.raises((CaptureError, InputError), match=text):
        capture(model, inputs)


def test_task_needs_a_transformers_model():
    with pytest.raises(InputError, match="task= selects made-up inputs"):
        capture(Block(), torch.ones(2, 3, 8), task="fill-mask")


def test_traced_graph_module():
    class Traceable(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(8, 8)

        def forward(self, x):
            return self.linear(x).relu()

    model = Traceable()
    traced = torch.fx.symbolic_trace(model)
    code = traced.code
    program = capture(traced, torch.randn(3, 8))
    assert traced.code == code
    assert torch.equal(program.run(torch.ones(5, 8)), model(torch.ones(5, 8)))
    assert program.state["linear.weight"] is model.linear.weight


def test_exported_graph_module():
    model = Block()
    exported = torch.export.export(model, (torch.randn(3, 5, 8),), dynamic_shapes={"x": {0: Dim.AUTO}})
    program = capture(exported.module(), torch.randn(3, 5, 8))
    assert torch.equal(program.run(torch.ones(4, 5, 8))["y"], model(torch.ones(4, 5, 8))["y"])


def test_exported_program():
    model, x = Block(), torch.randn(3, 5, 8)
    exported = torch.export.export(model, (x,), dynamic_shapes={"x": {0: Dim.AUTO, 1: Dim("n", min=2, max=9)}})
    before = str(exported.graph)
    program = capture(exported)
    assert str(exported.graph) == before
    assert dims(program) == {"batch": (1, None), "x_1": (1, 9)}
    assert torch.equal(program.run(torch.ones(4, 2, 8))["y"], model(torch.ones(4, 2, 8))["y"])


def test_program_and_folder(tmp_path):
    program = capture(Block(), torch.randn(3, 5, 8))
    copied = capture(program)
    assert copied is not program
    program.save(tmp_path / "saved")
    x = torch.randn(2, 4, 8)
    assert torch.equal(capture(tmp_path / "saved").run(x)["y"], program.run(x)["y"])
    with pytest.raises(FileFormatError, match="no such file"):
        capture(tmp_path / "nothing.pt2")


def test_gradients_reach_the_models_weights():
    model, x = Block(), torch.randn(3, 5, 8)
    capture(model, x).run(x)["y"].sum().backward()
    ours = model.linear.weight.grad.clone()
    model.zero_grad()
    model(x)["y"].sum().backward()
    assert torch.equal(ours, model.linear.weight.grad)


def test_assigned_attributes_do_not_stay():
    class Remembering(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = []
            self.inner = torch.nn.Identity()

        def forward(self, x):
            self.calls.append(1)
            self.inner.last = x
            self.last = x
            return x + 1

    model = Remembering()
    capture(model, torch.randn(3, 5))
    assert model.calls == []
    assert not hasattr(model, "last")
    assert not hasattr(model.inner, "last")
