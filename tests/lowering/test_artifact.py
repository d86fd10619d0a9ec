"""Artifacts in folders: written at once, checked when read, nothing executed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from graphwright.frontends.capture import capture
from graphwright.ir.errors import FileFormatError, GraphwrightError, InputError
from graphwright.lowering.artifact import Artifact, load_artifact
from graphwright.lowering.registry import target


@pytest.fixture
def artifact() -> Artifact:
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
    return target("onnx").lower(capture(model, (torch.randn(2, 4),)))


def test_round_trip(artifact: Artifact, tmp_path: Path) -> None:
    folder = artifact.save(tmp_path / "a b" / "out")
    loaded = load_artifact(folder)
    x = torch.randn(5, 4)
    name = artifact.input_names[0]
    assert torch.equal(loaded.run(**{name: x})["output"], artifact.run(**{name: x})["output"])
    assert torch.equal(loaded(x), artifact(x))
    assert (loaded.interface, loaded.target, loaded.provenance) == (
        artifact.interface,
        artifact.target,
        artifact.provenance,
    )


def test_model_outputs_come_back_in_their_classes(exported, zoo, tmp_path: Path) -> None:
    model, program = exported("llama", "sdpa")
    inputs = zoo.make_inputs("llama", 3, 4)
    loaded = load_artifact(target("onnx").lower(program).save(tmp_path / "out"))
    result = loaded(**inputs)
    assert type(result) is type(model(**inputs))
    assert torch.allclose(result.logits, model(**inputs).logits, atol=1e-5)


def test_saving_again_replaces(artifact: Artifact, tmp_path: Path) -> None:
    folder = artifact.save(tmp_path / "out")
    (folder / "stale").write_text("x")
    artifact.save(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "model.onnx"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_foreign_folder_is_not_replaced(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(FileExistsError):
        artifact.save(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_a_failed_write_leaves_nothing(artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise OSError("disk full")

    monkeypatch.setattr(artifact, "_write", fail)
    with pytest.raises(OSError, match="disk full"):
        artifact.save(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_damage_is_found(artifact: Artifact, tmp_path: Path) -> None:
    folder = artifact.save(tmp_path / "out")
    data = (folder / "model.onnx").read_bytes()
    for damaged in (data[:-5], data[:-1] + bytes([data[-1] ^ 1])):
        (folder / "model.onnx").write_bytes(damaged)
        with pytest.raises(FileFormatError, match="truncated or was changed"):
            load_artifact(folder)
    (folder / "model.onnx").unlink()
    with pytest.raises(FileFormatError, match="missing"):
        load_artifact(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target", "nothing"),
        ("target", 7),
        ("interface", {"inputs": 3}),
        ("interface", None),
        ("version", 99),
        ("files", {"../x": {"bytes": 1}}),
        ("files", []),
    ],
)
def test_a_wrong_manifest_is_a_clear_error(artifact: Artifact, tmp_path: Path, key: str, value: object) -> None:
    folder = artifact.save(tmp_path / "out")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {key: value}))
    with pytest.raises(GraphwrightError):
        load_artifact(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": "other"}', '{"format": "graphwright-artifact", "version": 2}']
)
def test_no_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(FileFormatError):
        load_artifact(tmp_path)
    with pytest.raises(FileFormatError, match=r"no manifest\.json"):
        load_artifact(tmp_path / "nowhere")


def test_inputs_are_checked(exported, zoo) -> None:
    _, program = exported("bert", "sdpa")
    artifact = target("onnx").lower(program)
    good = {name: value for name, value in zoo.make_inputs("bert").items() if isinstance(value, torch.Tensor)}
    ids = good["input_ids"]
    for wrong, message in [
        ({"input_ids": ids}, "'attention_mask' is missing"),
        (good | {"labels": ids}, "no input 'labels'"),
        (good | {"input_ids": ids.float()}, "must have dtype int64"),
        (good | {"input_ids": ids[0]}, "must have 2 dimensions"),
        (good | {"input_ids": [[1]]}, "must be a tensor"),
        (good | {"input_ids": torch.ones(2, 65, dtype=torch.long)}, "is 65, allowed are 1 to 64"),
    ]:
        with pytest.raises(InputError, match=message):
            artifact.run(**wrong)
