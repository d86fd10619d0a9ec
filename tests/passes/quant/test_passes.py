"""Calibration and the passes on a tiny decoder, compared with plain hooks on the module."""

from __future__ import annotations

import pytest
import torch

import graphwright as gw
from graphwright.ir.errors import FileFormatError, PassError
from graphwright.passes.quant.awq import AwqScale
from graphwright.passes.quant.calibrate import Calibration, Calibrator, quantize
from graphwright.passes.quant.gptq import QuantizeGptq
from graphwright.passes.quant.options import Options
from graphwright.passes.quant.rtn import QuantizeRtn
from graphwright.passes.quant.sites import find_sites, stages_of

OPTIONS = Options(group_size=32, rounds=1, sweeps=1)
KINDS = ("q_proj", "o_proj", "gate_proj", "down_proj")


@pytest.fixture(scope="module")
def decoder():
    """A Llama of two layers with weights that are not small, and its canonical program."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, attn_implementation="eager",
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    ids = torch.zeros(2, 8, dtype=torch.long)
    program = gw.capture(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    return model, gw.Pipeline("canonicalize,fuse-attention").run(program, validate=False).program


@pytest.fixture(scope="module")
def batches():
    """Three batches, one with padding on the left."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 96, (3, 4, 24), generator=generator)
    masks = torch.ones_like(ids)
    masks[1, :2, :7] = 0
    return [{"input_ids": a, "attention_mask": b} for a, b in zip(ids, masks, strict=True)]


def modules_with(model, results):
    """The weights of a model replaced by what codes stand for, for the time of a test."""
    kept = {path: model.get_submodule(path).weight.data for path in results}
    for path, item in results.items():
        model.get_submodule(path).weight.data = item.dequantize()
    return kept


def moments_of(model, path, batches):
    """X^T X of a module's input over the tokens that count, by a hook."""
    found = []
    hook = model.get_submodule(path).register_forward_hook(lambda _, args, __: found.append(args[0]))
    with torch.no_grad():
        for batch in batches:
            model(**batch)
    hook.remove()
    rows = [x[batch["attention_mask"].bool()] for x, batch in zip(found, batches, strict=True)]
    return sum(x.T @ x for x in rows)


def test_stages_share_inputs(decoder):
    stages = stages_of(find_sites(decoder[1], OPTIONS))
    assert [[site.path.split(".")[-1] for site in stage.sites] for stage in stages] == 2 * [
        ["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"],
    ]  # fmt: skip
    assert len(find_sites(decoder[1], OPTIONS, heads=True)) == 15


@pytest.mark.parametrize(("products", "tolerance"), [(None, 1e-5), (torch.bfloat16, 2e-2)])
def test_moments_come_from_the_quantized_prefix(decoder, batches, products, tolerance):
    """Each stage sees the inputs that the linears quantized so far produce; padding does not count.

    In bfloat16 a product is rounded to 2^-9 of itself, and so are the inputs.
    """
    model, program = decoder
    run = Calibrator(program, find_sites(program, OPTIONS), Calibration(batches, products=products))
    kept = {}
    for stage in run.stages:
        moments = run.measure(stage)
        expected = moments_of(model, stage.sites[0].path, batches)
        torch.testing.assert_close(
            moments.hessian.float(), expected, rtol=0, atol=tolerance * float(expected.abs().max())
        )
        assert moments.tokens == sum(int(batch["attention_mask"].sum()) for batch in batches)
        solved = run.solve(stage, moments)
        run.use(solved)
        kept |= modules_with(model, solved)
    for path, weight in kept.items():
        model.get_submodule(path).weight.data = weight


def test_every_node_runs_once_per_batch(decoder, batches, monkeypatch):
    """True-sequential calibration costs one forward pass of each stream."""
    _, program = decoder
    calls = []
    linear = torch.nn.functional.linear
    monkeypatch.setattr("graphwright.passes.quant.stream.linear", lambda *args: calls.append(1) or linear(*args))
    options = Options(group_size=32, rounds=0, float_target=False, residual_target=False)
    quantize(program, find_sites(program, options), Calibration(batches))
    assert len(calls) == 13 * len(batches)  # the last of 14 linears is not needed


def test_pass_packs_and_reports(decoder, batches):
    _, program = decoder
    pass_ = QuantizeGptq(group_size=32, calibration=Calibration(batches), heldout=batches)
    result = gw.Pipeline([pass_]).run(program)
    report = result.trace.records[0].notes["quantization"]
    assert len(report["rows"]) == 14 and all(0 < row["error"] < 1 for row in report["rows"])
    assert report["quality"]["kl"] > 0 and report["quality"]["tokens"] > 0
    names = [str(node.target) for node in result.program.graph.nodes if node.op == "call_function"]
    assert sum("packed_linear" in name for name in names) == 14
    assert "model.layers.0.mlp.up_proj.weight" not in result.program.state
    assert "model.layers.0.mlp.up_proj.weight" in program.state
    logits, expected = (p.run(**batches[0]).logits for p in (result.program, program))
    divergence = (expected.softmax(-1) * (expected.log_softmax(-1) - logits.log_softmax(-1))).sum(-1).mean()
    assert 0 < divergence < 0.5  # 4 bits of a random model


def test_gptq_beats_rounding_end_to_end(decoder, batches):
    _, program = decoder
    kl = {}
    for pass_ in (
        QuantizeRtn(bits=3, group_size=32, heldout=batches),
        QuantizeGptq(bits=3, group_size=32, calibration=Calibration(batches), heldout=batches),
    ):
        result = gw.Pipeline([pass_]).run(program)
        kl[pass_.name] = result.trace.records[0].notes["quantization"]["quality"]["kl"]
    assert kl["quantize-gptq"] < kl["quantize-rtn"]


def test_overrides_and_misuse(decoder, batches):
    _, program = decoder
    overrides = {"*.layers.0.*": None, "*.down_proj": {"bits": 8, "group_size": 0}}
    result = gw.Pipeline([QuantizeRtn(overrides=overrides)]).run(program)
    rows = {row["path"]: row for row in result.trace.records[0].notes["quantization"]["rows"]}
    assert rows["model.layers.0.mlp.down_proj"]["bits"] == 8 and len(rows) == 8
    with pytest.raises(PassError, match="needs calibration data"):
        gw.Pipeline([QuantizeGptq()]).run(program)
    with pytest.raises(PassError, match="no linear"):
        gw.Pipeline([QuantizeRtn(overrides={"*": None})]).run(program)
    assert str(QuantizeRtn(bits=3)) == "quantize-rtn{bits=3}"


def test_interrupted_run_goes_on(decoder, batches, tmp_path):
    _, program = decoder
    sites, calibration = find_sites(program, OPTIONS), Calibration(batches)
    whole = quantize(program, sites, calibration)

    def stop(done, stages, paths):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(program, sites, calibration, work=tmp_path, progress=stop)
    files = sorted(tmp_path.glob("*.json"))
    assert [file.name for file in files] == [f"stage-0000{i}.json" for i in range(3)]
    stamps = [file.stat().st_mtime_ns for file in files]
    resumed = quantize(program, sites, calibration, work=tmp_path)
    assert [file.stat().st_mtime_ns for file in files] == stamps
    assert whole.keys() == resumed.keys()
    for path, item in whole.items():
        assert torch.equal(item.codes, resumed[path].codes) and torch.equal(item.scales, resumed[path].scales)
    tensors = files[1].with_suffix(".safetensors")
    tensors.write_bytes(tensors.read_bytes()[:100])
    with pytest.raises(FileFormatError, match="cannot be read"):
        quantize(program, sites, calibration, work=tmp_path)


def test_awq_scale_changes_no_value(decoder, batches):
    """Scales are folded exactly: the difference is rounding, the largest logit is about 10."""
    _, program = decoder
    result = gw.Pipeline([AwqScale(group_size=32, bits=3, calibration=Calibration(batches))]).run(program)
    assert result.trace.records[0].rewrites
    logits, expected = (p.run(**batches[1]).logits for p in (result.program, program))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-3)
    packed = gw.Pipeline([QuantizeRtn(group_size=32, bits=8)]).run(result.program).program
    torch.testing.assert_close(packed.run(**batches[0]).logits, program.run(**batches[0]).logits, rtol=0.2, atol=1.0)
