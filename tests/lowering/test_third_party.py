"""A target of another package, found through a real entry point: lowered, compared, saved, loaded, exported."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

import graphwright as gw
from graphwright.ir.errors import GraphwrightError, UnsupportedError
from graphwright.lowering import registry
from graphwright.lowering.artifact import load_artifact
from graphwright.lowering.compare import compare
from graphwright.lowering.registry import target, target_names

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tests" / "data" / "third_party_target"
ENTRY_POINTS = "[graphwright.targets]\nnumpy-tape = numpy_tape:TapeTarget\nbroken = numpy_tape_missing:Target\n"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The package on the path, with the metadata that an installer writes."""
    info = tmp_path / "site" / "numpy_tape-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy-tape\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (info.parent / "numpy_tape.py").write_text((PACKAGE / "numpy_tape.py").read_text(encoding="utf-8"))
    monkeypatch.syspath_prepend(str(info.parent))
    importlib.invalidate_caches()
    yield
    registry._registered.pop("numpy-tape", None)
    sys.modules.pop("numpy_tape", None)


@pytest.fixture
def bert() -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertModel(BertConfig(**sizes, vocab_size=50), add_pooling_layer=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    return model.eval().double()


def test_it_is_there_only_with_the_package():
    assert "numpy-tape" not in target_names()
    with pytest.raises(GraphwrightError, match="no target named 'numpy-tape'"):
        target("numpy-tape")


def test_a_model_is_lowered_saved_and_loaded(installed, bert, tmp_path):
    assert "numpy-tape" in target_names()
    artifact = target("numpy-tape{sizes=batch:2/sequence:8+16}").lower(gw.capture(bert))
    result = compare(bert, artifact)
    assert result.largest_difference < 1e-10  # rounding of float64
    assert {"left padding", "right padding", "batch=1"} <= {row.case for row in result.rows if not row.skipped}
    loaded = load_artifact(artifact.save(tmp_path / "tape"))
    assert compare(bert, loaded).ok


def test_export_takes_it_by_name(installed, bert, tmp_path):
    done = gw.export(bert.float(), tmp_path / "out", "numpy-tape", task="feature-extraction")
    assert done.ok and (tmp_path / "out" / "manifest.json").exists()


def test_what_it_cannot_express_is_reported(installed):
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.gelu(torch.linalg.inv(x), approximate="tanh")

    with pytest.raises(UnsupportedError, match="approximate=tanh") as caught:
        target("numpy-tape").lower(gw.capture(Model().eval(), {"x": torch.rand(2, 4, 4)}))
    assert "linalg_inv" in str(caught.value) and "no emitter for this op" in str(caught.value)


def test_a_target_that_cannot_be_imported_says_so(installed):
    with pytest.raises(GraphwrightError, match="'broken' cannot be imported"):
        target("broken")


def test_the_page_shows_this_target():
    source = (PACKAGE / "numpy_tape.py").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "writing-a-target.md").read_text(encoding="utf-8")
    assert len(source.splitlines()) < 150
    assert source in page
    assert ENTRY_POINTS.splitlines()[1].replace("= ", '= "') + '"' in page
