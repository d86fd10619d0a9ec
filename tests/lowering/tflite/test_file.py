"""The bytes that are written: one file for all buckets, weights once, aligned."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("ai_edge_litert")

from ai_edge_litert import schema_py_generated as schema

import graphwright as gw
from graphwright.ir.errors import UnsupportedError
from graphwright.lowering.artifact import load_artifact


class Classifier(torch.nn.Module):
    """A table, a linear, and a sum over the length."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(40, 16)
        self.head = torch.nn.Linear(16, 5)

    def forward(self, ids):
        return self.head(self.table(ids)).relu().sum(1)


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    return gw.capture(Classifier().eval(), (torch.randint(0, 40, (2, 6)),), dynamic={"ids": {0: "batch", 1: "length"}})


def model_of(content: bytes):
    return schema.ModelT.InitFromPackedBuf(content, 0)


def test_each_bucket_is_a_signature_and_weights_are_stored_once(program) -> None:
    artifact = gw.target("tflite{sizes=batch:2/length:4+8}").lower(program)
    model = model_of(artifact.file.content)
    assert {one.signatureKey.decode() for one in model.signatureDefs} == {"batch2_length4", "batch2_length8"}
    floats = [len(buffer.data) for buffer in model.buffers if buffer.data is not None and len(buffer.data) >= 64]
    assert sorted(floats) == [5 * 16 * 4, 40 * 16 * 4]


def test_constants_are_aligned(program) -> None:
    content = gw.target("tflite").lower(program).file.content
    for name, tensor in program.state.items():
        octets = tensor.detach().contiguous().numpy().tobytes()
        assert content.count(octets) == 1, name
        assert content.index(octets) % 16 == 0, name


def test_relu_is_part_of_the_product(program) -> None:
    artifact = gw.target("tflite").lower(program)
    codes = [name.split(":")[0] for names in artifact.provenance.values() for name in names]
    assert "RELU" not in codes and codes.count("FULLY_CONNECTED") == 1
    ids = torch.randint(0, 40, (2, 6))
    torch.testing.assert_close(artifact(ids), program.run(ids))


def test_saved_and_loaded(program, tmp_path) -> None:
    made = gw.target("tflite{sizes=batch:2/length:4+8}").lower(program)
    made.save(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["manifest.json", "model.tflite"]
    loaded = load_artifact(tmp_path / "out")
    assert gw.compare(program, loaded).ok


def test_what_cannot_be_expressed_is_named_with_the_reason() -> None:
    class Bits(torch.nn.Module):
        def forward(self, x):
            return x & 3

    program = gw.capture(Bits(), (torch.arange(4),), dynamic=None)
    report = gw.target("tflite").check(program)
    assert not report.ok
    assert "LOGICAL_AND" in str(report) and "booleans" in str(report)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_types_without_kernels_are_refused(dtype: torch.dtype) -> None:
    model = Classifier().to(dtype).eval()
    report = gw.target("tflite").check(gw.capture(model, (torch.randint(0, 40, (2, 6)),), dynamic=None))
    assert str(dtype).removeprefix("torch.").upper() in str(report) and "model.float()" in str(report)


def test_ranks_without_kernels_are_refused_in_the_runtimes_words() -> None:
    class Deep(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.pad(x, (1, 1)) * 2

    program = gw.capture(Deep(), (torch.randn(1, 2, 1, 2, 1, 2),), dynamic=None)
    with pytest.raises(UnsupportedError, match="PadKernelMaxDimensionCount"):
        gw.target("tflite").lower(program)
