"""Whole models: program -> ONNX -> program, and what torch.onnx writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

transformers = pytest.importorskip("transformers")
pytest.importorskip("onnx_ir")
onnx = pytest.importorskip("onnx")

import graphwright as gw  # noqa: E402
from graphwright.frontends.onnx.importer import import_onnx  # noqa: E402
from graphwright.ir.program import Program  # noqa: E402

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT = SMALL | {"vocab_size": 50, "attn_implementation": "eager"}
VISION = SMALL | {"image_size": 16, "patch_size": 8, "attn_implementation": "eager"}


def build(name: str) -> Any:
    """A small model with weights large enough for errors to show."""
    torch.manual_seed(0)
    makers = {
        "bert": lambda: transformers.BertModel(transformers.BertConfig(**TEXT)),
        "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT, num_key_value_heads=2)),
        "vit": lambda: transformers.ViTModel(transformers.ViTConfig(**VISION)),
        "gpt2": lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=50, attn_implementation="eager")
        ),
        "resnet": lambda: transformers.ResNetModel(
            transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
        ),
        "whisper": lambda: transformers.WhisperModel(
            transformers.WhisperConfig(
                d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
                encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=50, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                decoder_start_token_id=1, num_mel_bins=8, max_source_positions=12, attn_implementation="eager",
            )
        ),
    }  # fmt: skip
    model = makers[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model.eval()


def lowered(program: Program, folder: Path, **options: Any) -> Path:
    """The ONNX file of a program."""
    text = ",".join(f"{key}={value}" for key, value in options.items())
    gw.target(f"onnx{{{text}}}" if text else "onnx").lower(program).save(folder)
    return folder / "model.onnx"


def results(program: Program, leaves: list[Any]) -> list[torch.Tensor]:
    args, kwargs = pytree.tree_unflatten(leaves, program.signature.in_spec)
    return [value for value in program.run_flat(program.flatten(*args, **kwargs)) if isinstance(value, torch.Tensor)]


def tensors(program: Program) -> list[torch.Tensor]:
    return [leaf for leaf in program.example.leaves() if isinstance(leaf, torch.Tensor)]


TASKS = {"llama": "text-generation-with-past"}


@pytest.mark.parametrize("name", [pytest.param("llama", marks=pytest.mark.slow), "vit", "resnet"])
def test_program_to_onnx_and_back(name: str, tmp_path: Path) -> None:
    """In float64; what remains is that transformers computes parts of some models in float32."""
    program = gw.capture(build(name).double(), task=TASKS.get(name))
    again = import_onnx(lowered(program, tmp_path))
    leaves = tensors(program)
    want = [value for value in program.run_flat(program.example.leaves()) if isinstance(value, torch.Tensor)]
    for left, right in zip(want, results(again, leaves), strict=True):
        assert (left - right).abs().max() <= 1e-6 * left.abs().max()
    assert {dim.name: (dim.min, dim.max) for dim in again.dims} == {d.name: (d.min, d.max) for d in program.dims}


@pytest.mark.parametrize("name", ["gpt2", "vit"])
def test_the_dialect_of_onnx_runtime_comes_back(name: str, tmp_path: Path) -> None:
    """Caches in place and attention in blocks are read as what they compute; float32, some rounding steps."""
    model = build(name)
    model.set_attn_implementation("sdpa")
    program = gw.capture(model, task="text-generation-with-past" if name == "gpt2" else None)
    path = lowered(gw.Pipeline("default").run(program).program, tmp_path, dialect="ort")
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert kinds & {"GroupQueryAttention", "MultiHeadAttention"}
    want = [value for value in program.run_flat(program.example.leaves()) if isinstance(value, torch.Tensor)]
    for left, right in zip(want, results(import_onnx(path), tensors(program)), strict=True):
        assert (left - right).abs().max() <= 1e-5 * left.abs().max()


def test_names_survive_the_round_trip(tmp_path: Path) -> None:
    program = gw.capture(build("llama"), task="text-generation-with-past")
    artifact = gw.target("onnx").lower(program)
    artifact.save(tmp_path)
    second = gw.target("onnx").lower(import_onnx(tmp_path / "model.onnx"))
    assert (second.input_names, second.output_names) == (artifact.input_names, artifact.output_names)


def test_passes_fire_on_an_imported_model(tmp_path: Path) -> None:
    program = import_onnx(lowered(gw.capture(build("bert")), tmp_path))
    result = gw.Pipeline("default").run(program)
    calls = [str(node.target) for node in result.program.nodes]
    assert sum("scaled_dot_product_attention" in call for call in calls) == 2
    assert "encoder.layer.{0..1}.attention.self" in str(result.diff)


def test_padding_and_other_sizes(tmp_path: Path) -> None:
    model = build("bert").double()
    program = import_onnx(lowered(gw.capture(model), tmp_path))
    ids = torch.randint(0, 50, (3, 9))
    mask = torch.ones_like(ids)
    mask[0, :4], mask[1, 6:], mask[2, 2:4] = 0, 0, 0
    with torch.no_grad():
        want = model(input_ids=ids, attention_mask=mask).last_hidden_state
    have = program.run(input_ids=ids, attention_mask=mask)["last_hidden_state"]
    torch.testing.assert_close(have, want, rtol=1e-9, atol=1e-9)


def test_weights_are_mapped_and_those_of_the_file_are_never_written(tmp_path: Path) -> None:
    path = lowered(gw.capture(build("bert")), tmp_path, external_bytes=0)
    before = (tmp_path / "model.onnx.data").read_bytes()
    program = gw.capture(path)
    with torch.no_grad():
        for tensor in program.tensors().values():
            if tensor.is_floating_point():
                tensor.add_(1)
    assert (tmp_path / "model.onnx.data").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "vit", "whisper"])
def test_what_torch_onnx_writes(name: str, tmp_path: Path) -> None:
    """torch.onnx gives sizes names of its own, and computes them with operators that must be understood."""
    model = build(name)
    model.config.use_cache = False
    inputs = {k: v for k, v in gw.capture(model).example.kwargs.items() if isinstance(v, torch.Tensor)}

    class Positional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *values: torch.Tensor) -> torch.Tensor:
            return self.model(**dict(zip(inputs, values, strict=True)), return_dict=True)[0]

    static = {"pixel_values": 1, "input_features": 1}
    dims = [
        dict.fromkeys(range(static.get(key, value.dim())), torch.export.Dim.DYNAMIC) for key, value in inputs.items()
    ]
    path, module = tmp_path / "model.onnx", Positional()
    torch.onnx.export(
        module, tuple(inputs.values()), path, input_names=list(inputs), dynamic_shapes={"values": tuple(dims)},
        dynamo=True, verbose=False,
    )  # fmt: skip
    program = import_onnx(path)
    result = gw.Pipeline("default").run(program).program
    have = next(iter(result.run(**inputs).values()))
    with torch.no_grad():
        want = module(*inputs.values())
    assert (have - want).abs().max() <= 1e-4 * want.abs().max()
    assert not any(str(node.target).startswith("aten.softmax") for node in result.nodes)
