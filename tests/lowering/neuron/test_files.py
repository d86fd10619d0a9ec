"""The HLO as it is shipped, the scripts, and Neuron's own packages where they are there."""

from __future__ import annotations

import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

pytest.importorskip("jax")

import graphwright as gw
from graphwright.ir.errors import FileFormatError, GraphwrightError
from graphwright.lowering.artifact import load_artifact
from graphwright.lowering.neuron.hlo import instructions, read
from graphwright.lowering.neuron.xla import Executable, from_hlo, tensor_of


class Small(torch.nn.Module):
    """A product, a norm, an activation and a table."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(9, 8)
        self.linear, self.norm = torch.nn.Linear(8, 8), torch.nn.LayerNorm(8)

    def forward(self, ids):
        return torch.nn.functional.gelu(self.norm(self.linear(self.table(ids)))).softmax(-1)


IDS = torch.tensor([[1, 2, 3], [8, 0, 4]])


def lowered(options=""):
    return gw.target(f"neuron{options}").lower(gw.capture(Small().eval(), (IDS,), dynamic=None))


def test_numbers_are_small_and_the_proto_runs():
    part = lowered().parts["model"]
    module = read(part.proto)
    numbers = [instruction.id for _, instruction in instructions(module)]
    assert numbers == list(range(1, len(numbers) + 1))
    places = [computation.id for computation in module.computations]
    assert places == list(range(1, len(places) + 1)) and module.entry_computation_id in places
    run = Executable(from_hlo(part.proto), list(part.emitted.weights.values()))
    (found,) = run([run.buffer(IDS.int())])
    torch.testing.assert_close(tensor_of(found), Small()(IDS), rtol=1e-5, atol=1e-5)


def test_instructions_know_their_nodes():
    artifact = lowered()
    names = {instruction.name for _, instruction in instructions(read(artifact.parts["model"].proto))}
    assert {"embedding", "linear", "layer_norm", "softmax"} <= {
        name.rstrip("_0123456789") for name in artifact.provenance
    }
    assert {name for found in artifact.provenance.values() for name in found} <= names


def test_integers_have_32_bits():
    part = lowered().parts["model"]
    assert not {5, 9, 12} & {instruction.shape.element_type for _, instruction in instructions(read(part.proto))}


@pytest.mark.parametrize("products", ["", "bfloat16"])
def test_products_in_bfloat16(products):
    """Rounding the operands of products costs a few steps of bfloat16 (2^-8), and halves their weights."""
    artifact = lowered(f"{{products={products}}}" if products else "")
    types = {name: tensor.dtype for name, tensor in artifact.parts["model"].emitted.weights.items()}
    assert types["linear.weight"] is (torch.bfloat16 if products else torch.float32)
    assert types["norm.weight"] is torch.float32
    difference = (artifact(IDS) - Small()(IDS)).abs().max()
    assert difference < (2e-2 if products else 1e-6)
    assert (difference > 1e-6) == bool(products)


def test_the_neuron_variant_calls_kernels_and_its_bodies_give_the_same():
    plain, called = lowered(), lowered("{variant=neuron}")
    module = read(called.parts["model"].proto)
    found = {i.custom_call_target for _, i in instructions(module) if i.opcode == "custom-call"}
    assert found == {"AwsNeuronGelu", "AwsNeuronSoftmax"}
    assert not any(i.opcode == "custom-call" for _, i in instructions(read(plain.parts["model"].proto)))
    torch.testing.assert_close(called(IDS), plain(IDS), rtol=1e-6, atol=1e-6)


def test_the_script_passes_every_bucket_to_the_compiler(tmp_path):
    folder = lowered("{device=trn2,auto_cast=matmult,level=1}").save(tmp_path / "a folder")
    fake = tmp_path / "bin" / "neuronx-cc"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    environment = {"PATH": f"{fake.parent}:/usr/bin:/bin"}
    done = subprocess.run([folder / "compile.sh"], env=environment, capture_output=True, text=True, check=True)
    words = done.stdout.split("\n")
    assert words[:4] == ["compile", "model/model.hlo.pb", "--framework", "XLA"]
    text = done.stdout.replace("\n", " ")
    for part in ("--target trn2", "--auto-cast matmult --auto-cast-type bf16", "-O1", "--output model/model.neff"):
        assert part in text


def test_compile_through_torch_neuronx(tmp_path, monkeypatch):
    with pytest.raises(GraphwrightError, match=r"compile\.sh"):
        lowered().compile(tmp_path / "without")
    assert (tmp_path / "without" / "model" / "model.hlo.pb").exists()
    calls = []

    def hlo_compile(filename, compiler_workdir, compiler_args=None):
        calls.append((filename, compiler_args))
        path = Path(compiler_workdir) / "graph.neff"
        path.write_bytes(b"neff")
        return str(path)

    names = ("torch_neuronx", "torch_neuronx.xla_impl", "torch_neuronx.xla_impl.trace")
    for name in names:
        stand_in = types.ModuleType(name)
        stand_in.__spec__ = types.SimpleNamespace(name=name)
        monkeypatch.setitem(sys.modules, name, stand_in)
    monkeypatch.setattr(sys.modules[names[-1]], "hlo_compile", hlo_compile, raising=False)
    found = lowered("{device=inf2}").compile(tmp_path / "with")
    assert found == {"model": tmp_path / "with" / "model" / "graph.neff"}
    assert calls[0][0].endswith("model/model.hlo.pb") and calls[0][1][:2] == ["--target", "inf2"]


def test_a_missing_weight_is_named(tmp_path):
    folder = lowered().save(tmp_path / "out")
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "weights.safetensors").unlink()
    with pytest.raises(FileFormatError, match="missing"):
        load_artifact(tmp_path / "copy")


def test_options_that_do_not_exist():
    with pytest.raises(GraphwrightError, match="device=trn9"):
        gw.target("neuron{device=trn9}")
