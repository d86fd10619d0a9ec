"""`.pt2` files: read where they are data, refused where they could run code."""

from __future__ import annotations

import io
import zipfile

import pytest
import torch
from torch.export import Dim

from graphwright.frontends.capture import capture
from graphwright.frontends.pt2_check import is_size_text
from graphwright.ir.errors import FileFormatError


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x):
        return torch.relu(self.linear(x)).reshape(2 * x.shape[0], -1)


class Evil:
    def __reduce__(self):
        return (print, ("this ran",))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(model, file)."""
    torch.manual_seed(0)
    model, path = Small(), tmp_path_factory.mktemp("pt2") / "small.pt2"
    torch.export.save(torch.export.export(model, (torch.randn(3, 4),), dynamic_shapes=({0: Dim.AUTO},)), path)
    return model, path


def tampered(source, folder, change):
    """A copy of an archive with changed parts; `change(name, data)` gives the new data."""
    path = folder / "tampered.pt2"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return path


def pickled():
    buffer = io.BytesIO()
    torch.save(((Evil(),), {}), buffer)
    return buffer.getvalue()


def test_loads(saved):
    model, path = saved
    program = capture(path)
    assert [dim.name for dim in program.dims] == ["batch"]
    assert program.name == "small"
    x = torch.randn(5, 4)
    assert torch.equal(program.run(x), model(x))
    assert torch.equal(capture(str(path)).run(x), model(x))


RELU, ARGUMENT, CONTEXT = b"torch.ops.aten.relu.default", b'"forward_arg_names": ["x', b'\\"context\\": \\"null\\"'
ATTACKS = {
    "function": (RELU, b"torch.os.system", "torch.os.system"),
    "library": (RELU, b"torch.ops.load_library.x", "calls"),
    "operator": (RELU, b"_operator.methodcaller", "calls"),
    "size": (b"Symbol('s", b"__import__('s", "is no size"),
    "argument": (ARGUMENT, ARGUMENT + b"=print()", "no name"),
    "example": (None, None, "pickled objects"),
    "weights": (b'"use_pickle": false', b'"use_pickle": true', "pickles"),
    "enumeration": (CONTEXT, CONTEXT.replace(b"null", rb"{\\\"__enum__\\\": 1}"), "enumeration"),
}


def _replace(old, new):
    return lambda name, data: data.replace(old, new)


@pytest.mark.parametrize("attack", ATTACKS)
def test_code_is_refused(saved, tmp_path, capsys, attack):
    old, new, text = ATTACKS[attack]
    change = _replace(old, new) if old else lambda name, data: pickled() if "sample_inputs" in name else data
    path = tampered(saved[1], tmp_path, change)
    assert path.read_bytes() != saved[1].read_bytes()
    with pytest.raises(FileFormatError, match="could run code") as caught:
        capture(path)
    assert text in caught.value.why
    assert str(path) in caught.value.at
    assert "this ran" not in capsys.readouterr().out


def test_compiled_code_is_refused(saved, tmp_path):
    path = tampered(saved[1], tmp_path, lambda name, data: data)
    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{root}/data/aotinductor/model/model.so", b"")
    with pytest.raises(FileFormatError, match="code or data of an unknown kind"):
        capture(path)


def test_damaged_files(saved, tmp_path):
    path = tmp_path / "cut.pt2"
    path.write_bytes(saved[1].read_bytes()[:500])
    with pytest.raises(FileFormatError, match="not a complete"):
        capture(path)
    cut = tampered(saved[1], tmp_path, lambda name, data: data[:50] if name.endswith("model.json") else data)
    with pytest.raises(FileFormatError, match="not a complete"):
        capture(cut)


def test_caches_in_example_inputs(captured, tmp_path):
    _, program = captured("llama", "text-generation-with-past")
    path = tmp_path / "llama.pt2"
    torch.export.save(program.to_exported(), path)
    again = capture(path)
    with torch.no_grad():
        ours, theirs = again.run(**program.example.kwargs), program.run(**program.example.kwargs)
    assert type(ours) is type(theirs)
    assert torch.equal(ours.logits, theirs.logits)


@pytest.mark.parametrize(
    "text", ["s77", "2*s77 + u0", "Add(Symbol('s11', positive=True), Integer(2))", "Max(1, s0//2)"]
)
def test_sizes(text):
    assert is_size_text(text)


@pytest.mark.parametrize(
    "text", ["().__class__", "open('s1')", "s1.real", "Symbol('__import__')", "[s1]", "lambda: 1", "("]
)
def test_no_sizes(text):
    assert not is_size_text(text)
