"""CUDA graphs: what they are recorded from, on any machine, and the replay itself on a GPU."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import pytest
import torch
import transformers as tf
from torch.fx.experimental.proxy_tensor import make_fx

import graphwright as gw
from graphwright.ir.node import is_call
from graphwright.lowering.eager import cuda, replay
from graphwright.lowering.eager.cuda import only_gpu
from graphwright.lowering.eager.flat import flat_function, weight_function
from graphwright.lowering.eager.folding import FoldedFunction, weight_expressions
from graphwright.lowering.eager.kernels.opaque import opaque
from graphwright.lowering.eager.kernels.place import place_kernels
from graphwright.lowering.eager.packed_body import Body

SIZE = {"vocab_size": 50, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 48}
PACKED = "default,remove-padding{least=0.0},merge-linears"
MODELS = {
    "bert": lambda: tf.BertModel(tf.BertConfig(**SIZE, max_position_embeddings=40), add_pooling_layer=False),
    "pooler": lambda: tf.BertModel(tf.BertConfig(**SIZE, max_position_embeddings=40)),
    "mpnet": lambda: tf.MPNetModel(tf.MPNetConfig(**SIZE, max_position_embeddings=40), add_pooling_layer=False),
    "t5": lambda: tf.T5EncoderModel(
        tf.T5Config(vocab_size=50, d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2, dropout_rate=0.0)
    ),
}
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs run on NVIDIA GPUs")


def _model(name: str, scale: float = 1.0) -> torch.nn.Module:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    for parameter in model.parameters():
        parameter.data.mul_(scale)
    return model


def _mask(rows: int, length: int, kind: str = "right") -> torch.Tensor:
    mask = (torch.arange(length) < (length - torch.arange(rows) % length)[:, None]).long()
    if kind == "empty rows":
        mask[[1, -1]] = 0
    return mask.flip(1) if kind == "left" else mask


def _program(model: torch.nn.Module) -> gw.Program:
    return gw.Pipeline(PACKED).run(gw.capture(model), validate=False).program


@cache
def _placed(name: str) -> gw.Program:
    """A program in float64 with kernels in place, which fall back to ATen's ops."""
    return place_kernels(_program(_model(name, 4).double()), device="cpu", dtypes=[torch.float64])


@pytest.mark.parametrize("name", ["bert", "pooler"])
def test_more_tokens_than_there_are_change_nothing(name):
    program = _placed(name)
    expressions = weight_expressions(program, "all")
    body, weights = Body(program, expressions), weight_function(program, expressions)(())
    assert body.is_static
    for kind in ("right", "left", "empty rows"):
        inputs = [torch.randint(0, 50, (16, 29)), _mask(16, 29, kind)]
        with torch.no_grad():
            expected = flat_function(program)(inputs)
            size = body.size(inputs)
            assert size % 64 == 0 and inputs[1].sum() < size < 16 * 29
            flat = body.function(inputs, [*weights, *body.plan(inputs, size)])
        for want, have in zip(expected, body.finish(flat, copy=True), strict=True):
            torch.testing.assert_close(have, want, rtol=0, atol=1e-11)  # float64 rounding


def test_compilers_call_kernels_as_operators():
    program = _placed("pooler")
    body = Body(program, ())
    inputs = [torch.randint(0, 50, (16, 29)), _mask(16, 29)]
    arguments = [*inputs, *body.function.weights, *body.plan(inputs, body.size(inputs))]
    forward = opaque(body.function.module)
    with torch.no_grad():
        traced = make_fx(lambda *given: forward(*given), tracing_mode="fake")(*arguments)
        names = [str(node.target) for node in traced.graph.nodes]
        assert names.count("graphwright.packed_attention.default") == 2
        for want, have in zip(body.function.module.forward(*arguments), traced(*arguments), strict=True):
            assert torch.equal(want, have) if isinstance(want, torch.Tensor) else want == have


def test_a_program_that_unpacks_in_other_ways_has_no_static_form():
    assert not Body(_program(_model("bert")), ()).is_static  # its attention is not the kernel's


def test_programs_that_are_recorded():
    program = gw.capture(_model("bert"))
    assert only_gpu(program) is None  # its weights are not on a GPU
    artifact = gw.target("eager").lower(program)
    with torch.no_grad():
        assert artifact.ahead([torch.ones(2, 5, dtype=torch.long), torch.ones(2, 5, dtype=torch.long)]) is None


class Played:
    """Stands for a recording: computes anew."""

    def __init__(self, function, inputs, pool):
        self.function, self.inputs = function, inputs

    def __call__(self):
        return self.function(self.inputs)


@pytest.fixture
def recorder(monkeypatch):
    """A program on packed tokens whose calls are recorded without a GPU."""
    monkeypatch.setattr(cuda, "Replay", Played)
    monkeypatch.setattr(replay, "Replay", Played)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(synchronize=lambda: None))
    monkeypatch.setattr(cuda, "_reserved", lambda: 0)
    monkeypatch.setattr(cuda.CudaFunction, "_serves", lambda self, inputs: not self._failed)
    monkeypatch.setattr(cuda.CudaFunction, "_follow", lambda self: None)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=2**30))
    program = _placed("bert")
    return cuda.CudaFunction(program, FoldedFunction(program, "all"), "graphs")


def test_calls_are_recorded_when_they_come_a_third_time(recorder):
    inputs = [torch.randint(0, 50, (16, 29)), _mask(16, 29)]
    expected = recorder.plain(inputs)
    with torch.no_grad():
        for count in range(4):
            assert (recorder.ahead(inputs) is not None) == (count == 3)
            torch.testing.assert_close(recorder(inputs)[0], expected[0], rtol=0, atol=1e-11)
        other = [inputs[0], _mask(16, 29) * (torch.arange(29) < 9)]  # of the same sizes, with fewer tokens
        assert recorder.ahead(other) is None
        torch.testing.assert_close(recorder(other)[0], recorder.plain(other)[0], rtol=0, atol=1e-11)
        recorder(other)
        assert recorder.ahead(other) is not None and len(recorder._graphs) == 2


def _is_served(recorder, inputs):
    """Whether a recording serves a call; whatever does is right."""
    ahead = recorder.ahead(inputs)
    expected = recorder.plain(inputs)[0]
    for results in (recorder(inputs), ahead or (expected,)):
        torch.testing.assert_close(results[0], expected, rtol=0, atol=1e-11)
    return ahead is not None


def test_recordings_follow_their_weights(recorder):
    inputs = [torch.randint(0, 50, (16, 29)), _mask(16, 29)]
    state = recorder.plain.program.state
    dense, query = (state[f"encoder.layer.0.{name}.weight"] for name in ("output.dense", "attention.self.query"))
    with torch.no_grad():
        for _ in range(3):
            recorder(inputs)
        for weight, is_kept in ((dense, False), (query, True)):
            old = weight.data.clone()
            weight.mul_(2)  # seen by recordings, but not by the merged projections
            assert _is_served(recorder, inputs) == (not is_kept)
            recorder(inputs)
            weight.data = old  # lies elsewhere; other tests share it
            assert not _is_served(recorder, inputs)
            recorder(inputs)
            assert _is_served(recorder, inputs)


def test_a_program_that_computes_something_else_when_replayed_is_not_recorded(recorder, monkeypatch, caplog):
    monkeypatch.setattr(
        Played,
        "__call__",
        lambda self: [torch.zeros_like(x) if i == 0 else x for i, x in enumerate(self.function(self.inputs) or ())],
    )
    inputs = [torch.randint(0, 50, (16, 29)), _mask(16, 29)]
    with torch.no_grad():
        for _ in range(4):
            torch.testing.assert_close(recorder(inputs)[0], recorder.plain(inputs)[0], rtol=0, atol=1e-11)
    assert recorder._failed and "runs without CUDA graphs" in caplog.text


def _compared(artifact, model, kind, rows, length):
    mask = _mask(rows, length, kind).cuda()
    inputs = {"input_ids": torch.randint(0, 50, (rows, length)).cuda(), "attention_mask": mask}
    with torch.no_grad():
        expected, actual = model(**inputs)[0], artifact(**inputs)[0]
    largest = expected[mask == 1].abs().max()
    allowed = 1e-2 if actual.dtype == torch.float16 else 8e-2  # both sides round at every op
    assert (actual - expected)[mask == 1].abs().max() < allowed * largest, kind


@on_gpu
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("pipeline", ["default,merge-linears", f"{PACKED},fuse-norm"])
def test_replayed_graphs(name, pipeline):
    model = _model(name).cuda().to(torch.bfloat16 if name == "t5" else torch.float16)  # float16 looks for infinities
    program = gw.Pipeline(pipeline).run(gw.capture(model), validate=False).program
    if pipeline.startswith(PACKED):
        assert sum(is_call(node, torch.ops.graphwright.varlen_attention) for node in program.graph.nodes) == 2
    artifact = gw.target("eager{compile=graphs}").lower(program)
    for kind in ("right", "left", "right", "right"):
        for rows, length in ((4, 9), (3, 16)):
            _compared(artifact, model, kind, rows, length)
    assert not artifact._call._failed
    assert any(found is not None for found in artifact._call._graphs.values())


@on_gpu
def test_changed_weights_are_recorded_again():
    model = _model("bert").cuda().half()
    artifact = gw.target("eager{compile=graphs}").lower(_program(model))
    for factor in (1.0, 0.5):
        model.encoder.layer[0].output.dense.weight.data = model.encoder.layer[0].output.dense.weight.data * factor
        program_weight = artifact.program.state["encoder.layer.0.output.dense.weight"]
        program_weight.data = model.encoder.layer[0].output.dense.weight.data
        for _ in range(4):
            _compared(artifact, model, "right", 4, 9)


@on_gpu
def test_optimized_models_on_a_gpu():
    model = _model("pooler").cuda().half()
    optimized = gw.optimize(model, remove_padding=True, target="eager")
    with torch.inference_mode():
        for _ in range(4):
            _compared(optimized, model, "right", 4, 9)
    for _ in range(4):
        _compared(optimized, model, "right", 4, 9)
    with torch.inference_mode():
        result = optimized(torch.ones(2, 5, dtype=torch.long, device="cuda"))
    assert result.last_hidden_state.shape == (2, 5, 32)


@on_gpu
def test_packed_batches_compiled_by_inductor():
    model = _model("pooler").cuda().half()
    artifact = gw.target("eager{compile=inductor}").lower(_program(model))
    for kind in ("right", "left", "right", "right"):
        _compared(artifact, model, kind, 4, 9)
    assert not artifact._call._failed
