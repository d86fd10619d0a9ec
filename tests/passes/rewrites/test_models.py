"""Every pass on programs of transformers models: how often each rule fires, and that nothing changes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from graphwright.passes.numerics import difference

PASSES = "fuse-norm,fuse-activation,fuse-rotary,conv1d-to-linear,fuse-bias,merge-linears,div-to-mul,fold-batch-norm"
FIRED = {
    "bert": {"MergeLinears": 2},
    "gpt2": {"TanhGelu": 2, "Conv1dToLinear": 6, "AddmmToLinear": 2},
    "llama": {"RmsNormWeighted": 5, "Rotary": 4, "MergeLinears": 4},
    "gemma": {"RmsNormWeighted": 5, "Rotary": 4, "MergeLinears": 4},
    "qwen3": {"RmsNormWeighted": 9, "Rotary": 4, "MergeLinears": 4},
    "t5": {"RmsNormWeighted": 12, "MergeLinears": 5, "ChangeTrueDivToMulByInverse": 2},
    "gptj": {"TanhGelu": 2, "PartialRotary": 4, "MergeLinears": 2},
    "gpt_neox": {"PartialRotary": 4},
    "phi": {"TanhGelu": 2, "PartialRotary": 4, "MergeLinears": 2},
    "vit": {"MergeLinears": 2},
    "cohere": {"LayerNormWeighted": 3, "Rotary": 4, "MergeLinears": 2},
    "gpt_oss": {"RmsNormWeighted": 5, "HalfAngleRotary": 4},
    "resnet": {"FuseBatchNormInConv": 6},
}
HALF = {
    "llama": {"RmsNormNarrowed": 5, "Rotary": 4, "MergeLinears": 4},
    "gemma": {"RmsNormWeighted": 5, "Rotary": 4, "MergeLinears": 4},
    "t5": {"RmsNormNarrowed": 12, "MergeLinears": 5, "ChangeTrueDivToMulByInverse": 2},
    "cohere": {"LayerNormNarrowed": 3, "Rotary": 4, "MergeLinears": 2},
}


def _models():
    spec = importlib.util.spec_from_file_location("rewrites_models", Path(__file__).with_name("models.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


models = _models()


@pytest.mark.parametrize("name", FIRED)
def test_float32(rewrite, name):
    done = rewrite(models.capture(name), PASSES)
    assert {rule: done.fired[rule] for rule in FIRED[name]} == FIRED[name]
    model = models.build(name, torch.float32)
    for batch, length in ((2, 7), (1, 5), (3, 9)):
        arguments = models.call(name, torch.float32, batch, length, seed=batch)
        with torch.no_grad():
            expected, actual = model(**arguments)[0], done.program.run(**arguments)[0]
        # a dozen roundings in a row, in sums that the fused ops take in another order
        reason, _ = difference(expected, actual, 2e-5, 0.0)
        assert reason is None, reason


@pytest.mark.parametrize("name", HALF)
def test_bfloat16(rewrite, name):
    done = rewrite(models.capture(name, torch.bfloat16), PASSES)
    assert {rule: done.fired[rule] for rule in HALF[name]} == HALF[name]


def test_no_rule_fires_that_is_not_expected(rewrite):
    done = rewrite(models.capture("bert"), PASSES)
    assert done.fired == FIRED["bert"]
