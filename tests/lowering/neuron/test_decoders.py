"""Decoders that write into their cache: against the originals, in `generate`, and step by step on donated buffers."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("jax")
sys.path.insert(0, str(Path(__file__).parent))

from architectures import build

import graphwright as gw
from graphwright.ir.errors import GraphwrightError, InputError
from graphwright.lowering.neuron.decoder import NeuronDecoder
from graphwright.lowering.neuron.hlo import MUST_ALIAS, read

PAST = "text-generation-with-past"
SIZES = "sizes=batch:2/sequence:1+12/past_sequence:40"
EXPORTED = "sizes=batch_size:2/sequence_length:1+8/past_sequence_length:32"
OTHERS = ("bloom", "cohere", "falcon", "gemma3", "gpt2", "gptj", "granite", "olmo2", "phi3", "qwen3", "stablelm")


def lowered(name, target=f"neuron{{{SIZES}}}"):
    return gw.target(target).lower(gw.capture(build(name), task=PAST))


@pytest.mark.parametrize("name", ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_a_cache_of_any_length_in_one_number_of_slots(name):
    model = build(name)
    artifact = lowered(name)
    assert isinstance(artifact, NeuronDecoder)
    result = gw.compare(model, artifact)
    cases = {row.case for row in result.rows if not row.skipped}
    assert {"past_sequence=0", "past_sequence=1", "sequence=1", "left padding", "right padding"} <= cases
    assert any(case.startswith("past_sequence=2") for case in cases), "no cache longer than captured"


def prompt():
    """Tokens, and a mask with padding on the left in one row."""
    ids = torch.randint(3, 50, (2, 6), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    return ids, mask


OPTIONS = {"max_new_tokens": 16, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def test_generate_and_sessions_give_the_tokens_of_the_model(tmp_path):
    model = build("llama")
    done = gw.export(model, tmp_path / "out", f"neuron{{{EXPORTED}}}", task=PAST)
    ids, mask = prompt()
    expected = model.generate(ids, attention_mask=mask, **OPTIONS)
    loaded = gw.load_artifact(tmp_path / "out")
    assert torch.equal(loaded.generate(ids, attention_mask=mask, **OPTIONS), expected)

    session = done.bundle.only.session(2)
    tokens, known = [ids], mask
    for _ in range(OPTIONS["max_new_tokens"]):
        before = list(session._cache.values())
        positions = (known.cumsum(-1) - 1).clamp(min=0)[:, -tokens[-1].shape[1] :]
        outputs = session.step(input_ids=tokens[-1], attention_mask=known, position_ids=positions)
        assert all(buffer.is_deleted() for buffer in before), "the memory of the cache was not taken"
        tokens.append(outputs["logits"][:, -1:].argmax(-1))
        known = torch.cat([known, torch.ones(2, 1, dtype=torch.long)], 1)
    assert torch.equal(torch.cat(tokens, 1), expected)
    assert session.length == 6 + 15


def test_room():
    artifact = lowered("llama")
    session = artifact.session(2)
    ids = torch.full((2, 12), 3)
    for step in range(3):
        session.step(input_ids=ids, attention_mask=torch.ones(2, 12 * (step + 1), dtype=torch.long))
    with pytest.raises(InputError, match="no room for 12 tokens after 36"):
        session.step(input_ids=ids, attention_mask=torch.ones(2, 48, dtype=torch.long))
    with pytest.raises(InputError, match="no bucket has 3 rows"):
        artifact.session(3)
    with pytest.raises(GraphwrightError, match="16 new tokens do not fit into 8 slots"):
        lowered("llama", "neuron{sizes=sequence:16/past_sequence:8}")


def test_the_hlo_binds_outputs_to_inputs():
    part = next(iter(lowered("llama").parts.values()))
    module = read(part.proto)
    entries = {(tuple(e.output_shape_index), e.parameter_number, e.kind) for e in module.input_output_alias.entries}
    inputs, outputs = part.input_names, part.output_names
    assert entries == {
        ((outputs.index(f"present.0.{kind}"),), inputs.index(f"past_key_values.0.{kind}"), MUST_ALIAS)
        for kind in ("key", "value")
    }
    opcodes = [i.opcode for computation in module.computations for i in computation.instructions]
    assert opcodes.count("dynamic-update-slice") == 2 and "scatter" not in opcodes


def test_a_static_cache_of_transformers_is_written_in_place():
    """What the capture writes to is a result of the module, in the memory of the input."""
    from transformers import StaticCache

    model = build("llama")
    cache = StaticCache(config=model.config, max_cache_len=24)
    with torch.no_grad():
        model(torch.full((2, 1), 3), past_key_values=cache)
    cache.reset()
    mask, numbers = torch.ones(2, 24, dtype=torch.long), torch.arange(6).expand(2, 6).contiguous()
    inputs = {"input_ids": torch.full((2, 6), 3), "attention_mask": mask, "position_ids": numbers}
    inputs |= {"past_key_values": cache, "use_cache": True}
    artifact = gw.target("neuron").lower(gw.capture(model, inputs, dynamic=None))
    assert len(artifact.parts["model"].emitted.aliases) == 2
    assert gw.compare(model, artifact).ok


def test_a_cache_that_cannot_be_written_in_place_says_why(caplog):
    with caplog.at_level(logging.WARNING, "graphwright"):
        artifact = lowered("opt")
    assert not isinstance(artifact, NeuronDecoder)
    assert "modeling_opt.py" in caplog.text and "number of tokens" in caplog.text
