import json
import re
from dataclasses import replace

import pytest
import torch
from torch.utils import _pytree as pytree

from graphwright.ir.errors import FileFormatError, GraphwrightError, InputError
from graphwright.ir.infer import fake_mode_of
from graphwright.ir.node import module_path, source_line
from graphwright.ir.program import Program
from graphwright.ir.signature import Example
from graphwright.ir.snapshot import Snapshot, fingerprint
from graphwright.ir.storage import required_types
from graphwright.ir.symbols import parse_size, parse_type
from graphwright.ir.verify import verify

aten = torch.ops.aten


@pytest.fixture
def program(exported_small):
    return exported_small.clone()


def export(model, args=(), kwargs=None, **options):
    exported = torch.export.export(model, args, kwargs, **options)
    return Program.from_exported(exported, example=Example(args, kwargs or {}))


def round_trip(program, tmp_path):
    loaded = Program.load(program.save(tmp_path / "saved"))
    verify(loaded)
    assert Snapshot.of(loaded) == Snapshot.of(program)
    assert fingerprint(loaded) == fingerprint(program)
    pairs = zip(loaded.run_flat(loaded.example.leaves()), program.run_flat(program.example.leaves()), strict=True)
    assert all(a is b is None or torch.equal(a, b) for a, b in pairs)
    return loaded


def test_a_program_comes_back(program, tmp_path):
    loaded = round_trip(program, tmp_path)
    ids = torch.randint(0, 11, (3, 7))
    assert torch.equal(loaded.run(ids=ids)["logits"], program.run(ids=ids)["logits"])
    assert loaded.state["embed.weight"] is loaded.state["head.weight"]
    assert loaded.state_bytes() <= program.state_bytes()
    for ours, theirs in zip(loaded.nodes, program.nodes, strict=True):
        assert (module_path(ours), source_line(ours)) == (module_path(theirs), source_line(theirs))
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == [
        "example.safetensors",
        "program.json",
        "weights.safetensors",
    ]


def test_weights_are_trainable_after_loading(program, tmp_path):
    loaded = round_trip(program, tmp_path)
    loaded.run(ids=torch.ones(2, 4, dtype=torch.long))["logits"].sum().backward()
    weight = loaded.state["layers.0.query.weight"]
    assert isinstance(weight, torch.nn.Parameter)
    assert weight.grad is not None


def test_a_loaded_program_can_be_edited_and_exported(program, tmp_path):
    from graphwright.ir.rewriter import Rewriter

    loaded = round_trip(program, tmp_path)
    gelu = next(node for node in loaded.nodes if node.target is aten.gelu.default)
    with Rewriter(loaded).site("Rule", [gelu]) as edit:
        edit.replace(gelu, edit.aten.relu(gelu.args[0]))
    assert len(loaded.to_exported().range_constraints) == 2


class Odd(torch.nn.Module):
    """Constants, flags, no-grad regions, sizes computed from sizes, several outputs of one op."""

    def forward(self, x, pair, flag=True, scale=None):
        a, b = x.split(4, -1)
        with torch.no_grad():
            shift = b.sum() * 2
        tail = x.new_ones(x.shape[0] * 2 + 1)
        return [
            a + shift + pair[0],
            {"tail": tail, "half": x.new_zeros(x.shape[0] // 2, 8)},
            None,
            pair[1] * float("inf"),
        ]


def test_odd_programs_come_back(tmp_path):
    x, pair = torch.randn(6, 8).t().contiguous().t(), (torch.ones(6, 4, dtype=torch.float32), torch.ones(3))
    shapes = {"x": {0: torch.export.Dim.AUTO}, "pair": ({0: torch.export.Dim.AUTO}, None), "flag": None}
    program = export(Odd(), (x, pair), {"flag": True}, dynamic_shapes=shapes)
    assert any(isinstance(value, torch.fx.GraphModule) for value in program.state.values())
    loaded = round_trip(program, tmp_path)
    assert next(node for node in loaded.placeholders if node.name == "x").meta["val"].stride()[0] == 1
    a, b = (p.run(torch.ones(10, 8), (torch.ones(10, 4), pair[1])) for p in (loaded, program))
    assert a[1]["half"].shape == (5, 8)
    assert a[1]["tail"].shape == (21,)
    assert torch.equal(a[0], b[0])


def test_a_decoder_with_its_cache_comes_back(tmp_path):
    transformers = pytest.importorskip("transformers")
    from graphwright.frontends.cache import register_caches

    register_caches()  # transformers' own registration would stay for all other tests of this process
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=20, n_positions=32)
    model = transformers.GPT2LMHeadModel(config).eval()

    def inputs(batch, past, new):
        cache = transformers.DynamicCache(config=config)
        cache.update(torch.randn(batch, 2, past, 8), torch.randn(batch, 2, past, 8), 0)
        ids = torch.randint(0, 20, (batch, new))
        return {"input_ids": ids, "attention_mask": torch.ones(batch, past + new).long(), "past_key_values": cache}

    kwargs = inputs(2, 3, 4)
    auto = torch.export.Dim.AUTO
    leaves, spec = pytree.tree_flatten(kwargs["past_key_values"])
    cached = pytree.tree_map(lambda _: {0: auto, 2: auto}, pytree.tree_unflatten(leaves, _plain(spec)))
    shapes = {"input_ids": {0: auto, 1: auto}, "attention_mask": {0: auto, 1: auto}, "past_key_values": cached}
    exported = torch.export.export(model, (), kwargs, dynamic_shapes=shapes)
    program = Program.from_exported(exported, example=Example((), kwargs), name="GPT2")
    loaded = round_trip(program, tmp_path)
    assert "transformers.cache_utils:DynamicCache" in required_types(tmp_path / "saved")
    other = inputs(3, 5, 2)
    leaves = pytree.tree_leaves(((), other))
    assert all(torch.equal(a, b) for a, b in zip(loaded.run_flat(leaves), program.run_flat(leaves), strict=True))


def _plain(spec):
    children = [_plain(child) for child in spec.children()] if not spec.is_leaf() else []
    return spec if spec.is_leaf() else pytree.TreeSpec(list, None, children)


class TwoPaths(torch.nn.Module):
    """Takes another path where the inputs are long together."""

    def forward(self, a, b):
        both = torch.cat([a, b])
        return both + 1 if both.shape[0] < 20 else both - 1


@pytest.mark.parametrize("known_names", [True, False])
def test_conditions_on_sizes_come_back(known_names, tmp_path):
    auto = {0: torch.export.Dim.AUTO}
    program = export(TwoPaths(), (torch.ones(3), torch.ones(4)), dynamic_shapes={"a": auto, "b": auto})
    folder = program.save(tmp_path / "saved")
    if not known_names:  # a symbol that torch would not make: another one takes its place
        text = (folder / "program.json").read_text()
        for dim in program.dims:
            text = re.sub(rf"\b{dim.symbol}\b", f"size_{dim.symbol}", text)
        (folder / "program.json").write_text(text)
    loaded = Program.load(folder)
    assert len(loaded.guards) == len(program.guards) == 1
    assert loaded.guards[0].source == program.guards[0].source
    assert known_names == (loaded.guards == program.guards)
    assert torch.equal(loaded.run(torch.ones(9), torch.ones(10)), torch.full((19,), 2.0))
    with pytest.raises(InputError, match=r"test_storage.py:\d+"):
        loaded.run(torch.ones(9), torch.ones(11))


def test_a_condition_on_unknown_names_is_refused(tmp_path):
    auto = {0: torch.export.Dim.AUTO}
    program = export(TwoPaths(), (torch.ones(3), torch.ones(4)), dynamic_shapes={"a": auto, "b": auto})
    program.guards = (replace(program.guards[0], condition="s0 + open('x') < 20"),)
    with pytest.raises(FileFormatError, match="open"):
        Program.load(program.save(tmp_path / "saved"))


def test_saving_again_replaces_only_its_own_files(program, tmp_path):
    folder = program.save(tmp_path / "saved")
    (folder / "notes.txt").write_text("mine")
    program.name = "renamed"
    program.save(folder)
    assert (folder / "notes.txt").read_text() == "mine"
    assert Program.load(folder).name == "renamed"


def test_nothing_is_left_of_a_failed_save(program, tmp_path):
    program.state["odd"] = torch.ones(2).to_sparse()
    with pytest.raises(GraphwrightError, match="'odd'"):
        program.save(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_functions_that_cannot_be_found_again_are_refused(program, tmp_path):
    gelu = next(node for node in program.nodes if node.target is aten.gelu.default)
    gelu.target = torch.nn.functional.gelu
    with pytest.raises(GraphwrightError, match=gelu.name):
        program.save(tmp_path / "saved")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Files of a small saved program, by name."""

    class Small(torch.nn.Module):
        def forward(self, x, *, y):
            return torch.softmax(x @ y, -1)

    shapes = {"x": {0: torch.export.Dim.AUTO}, "y": None}
    program = export(Small(), (torch.ones(2, 3),), {"y": torch.ones(3, 4)}, dynamic_shapes=shapes)
    folder = program.save(tmp_path_factory.mktemp("small") / "saved")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def load(files, tmp_path):
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return Program.load(tmp_path)


@pytest.mark.parametrize("name", ["program.json", "weights.safetensors", "example.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated"])
def test_damaged_files_are_refused_by_name(saved, name, damage, tmp_path):
    data = saved[name]
    files = saved | {name: b"" if damage == "empty" else data[: len(data) * 2 // 3]}
    if damage == "missing":
        del files[name]
    with pytest.raises(FileFormatError, match=str(name)):
        load(files, tmp_path)


def node(fields, name):
    return next(entry for entry in fields["graph"]["nodes"] if entry["record"][0] == name)


def record(fields, name, i, value):
    node(fields, name)["record"][i] = value


HOSTILE = {
    "other format": lambda f: f.update(format="x"),
    "other version": lambda f: f.update(version=99),
    "missing key": lambda f: f.pop("dims"),
    "import by op": lambda f: record(f, "softmax", 2, "os.system"),
    "eval": lambda f: record(f, "softmax", 2, "builtins.eval"),
    "code in a node name": lambda f: record(f, "softmax", 0, "a = 1; import os #"),
    "code in an input name": lambda f: record(f, "x", 2, "x=print(1)"),
    "keyword": lambda f: record(f, "softmax", 0, "class"),
    "code in a keyword argument": lambda f: record(f, "softmax", 4, [["dtype=print(1), b", None]]),
    "code in the source line": lambda f: node(f, "softmax").update(frame=["a.py\nprint(1)", 1, "f"]),
    "code in the forward names": lambda f: f.update(forward=["x=print(1)", "y"]),
    "state with quotes": lambda f: f["graph"]["nodes"].insert(
        0, {"record": ["w", "get_attr", 'a")', [], [], "", "", ""]}
    ),
    "unknown state": lambda f: f["graph"]["nodes"].insert(0, {"record": ["w", "get_attr", "a.b", [], [], "", "", ""]}),
    "call of a module": lambda f: record(f, "softmax", 1, "call_module"),
    "use before definition": lambda f: f["graph"]["nodes"].reverse(),
    "two nodes of one name": lambda f: f["graph"]["nodes"].insert(1, f["graph"]["nodes"][0]),
    "wrong type": lambda f: record(f, "softmax", 5, "f32[2,5]"),
    "wrong arguments": lambda f: record(f, "softmax", 3, ["x", 7]),
    "size that is code": lambda f: record(f, "x", 5, "f32[__import__('os').getpid(),3]"),
    "huge power": lambda f: record(f, "x", 5, "f32[9**9**9,3]"),
    "unregistered container": lambda f: f.update(out_spec=["os.PathLike", None, [None]]),
    "dims without symbol": lambda f: f["dims"].append({"name": "z", "symbol": "s999", "min": 0, "max": None}),
    "deep nesting": lambda f: record(f, "softmax", 3, json.loads("[" * 900 + "]" * 900)),
    "not a graph": lambda f: f.update(graph=3),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_hostile_files_are_refused(saved, attack, tmp_path, capsys):
    fields = json.loads(saved["program.json"])
    HOSTILE[attack](fields)
    with pytest.raises(FileFormatError):
        load(saved | {"program.json": json.dumps(fields).encode()}, tmp_path)
    assert capsys.readouterr().out == ""


def test_type_mismatch_names_the_node(saved, tmp_path):
    fields = json.loads(saved["program.json"])
    record(fields, "softmax", 5, "f32[2,5]")
    with pytest.raises(FileFormatError, match="%softmax") as caught:
        load(saved | {"program.json": json.dumps(fields).encode()}, tmp_path)
    assert "f32[2,5]" in str(caught.value)


def test_unregistered_containers_are_named(saved, tmp_path):
    fields = json.loads(saved["program.json"])
    fields["out_spec"] = ["somewhere.Output", None, [None]]
    with pytest.raises(FileFormatError, match=r"somewhere\.Output"):
        load(saved | {"program.json": json.dumps(fields).encode()}, tmp_path)


def test_sizes_are_parsed_as_arithmetic(program):
    value = program.placeholders[0].meta["val"]
    sizes = dict(zip(("b", "s"), value.shape, strict=True))
    for text in ("b", "2*b + 3", "b*s - 1", "(b + s)//2", "Max(1, b)", "s**2", "-b + 7", "FloorDiv(b, 2)", "Mod(s, 3)"):
        assert isinstance(parse_size(text, sizes), torch.SymInt)
    assert parse_size("2*3+1", {}) == 7
    for text in ("b.node", "unknown", "1.5", "b if s else 1", "b()", "'x'", "[b]", "lambda: 1", "(b", "b**99", "b < s"):
        with pytest.raises(FileFormatError):
            parse_size(text, sizes)
    with fake_mode_of(program.graph):
        assert parse_type("bf16[b,3]", sizes).dtype == torch.bfloat16


def test_dims_survive_under_their_names(program, tmp_path):
    program.dims = tuple(replace(dim, max=50) for dim in program.dims)
    loaded = round_trip(program, tmp_path)
    assert [(dim.name, dim.min, dim.max) for dim in loaded.dims] == [("batch", 1, 50), ("sequence", 1, 50)]
