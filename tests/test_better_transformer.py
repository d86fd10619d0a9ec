"""The 44 model types that BetterTransformer covered, and was silently wrong for some of: all fused, none wrong.

Each tiny model has scaled weights and is compared in float64 with the unmodified one: without padding, with right, left
and scattered padding, with batch 1 and at other sizes. Among them are the ones it got wrong: gpt2, gpt_neo and opt
(masks dropped or ignored), t5 (scale), roformer (rotary positions dropped), albert (another GELU), and those it left
alone without a word.
"""

import pytest
import torch

from benchmarks.coverage.architectures import Architecture, architectures
from benchmarks.coverage.examine import examine
from benchmarks.coverage.rows import DONE

ENCODERS = (
    "albert bart bert bert-generation camembert clip data2vec-text deit distilbert electra ernie fsmt hubert layoutlm"
    " m2m_100 marian markuplm mbart prophetnet rembert roberta roc_bert roformer splinter tapas vilt vit vit_mae"
    " vit_msn wav2vec2 xlm-roberta yolos"
)
DECODERS = "bark blenderbot blip-2 bloom codegen gpt2 gptj gpt_neo gpt_neox opt pegasus t5"


def image_then_text(model):
    """BLIP-2: an image, whose place in the text its token takes as often as there are queries."""
    size, queries = model.config.vision_config.image_size, model.config.num_query_tokens
    text = torch.randint(5, 40, (3, 7))
    ids = torch.cat([torch.full((3, queries), model.config.image_token_id), text], 1)
    pixels = torch.randn(3, 3, size, size, dtype=model.dtype)
    return {"pixel_values": pixels, "input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}


def questions(model):
    """Splinter: two questions per text, of which only the places are told."""
    ids = torch.randint(5, 90, (3, 11))
    positions = torch.tensor([[1, 4], [2, 9], [0, 5]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "question_positions": positions}


def text_and_patches(model):
    """ViLT: embedded patches; it takes those of an image in random order."""
    ids = torch.randint(5, 90, (3, 11))
    patches = torch.randn(3, 6, model.config.hidden_size, dtype=model.dtype)
    mask = torch.ones(3, 6, dtype=torch.int64)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "image_embeds": patches, "pixel_mask": mask}


# Inputs that cannot be made up from a config.
INPUTS = {"blip-2": image_then_text, "splinter": questions, "vilt": text_and_patches}
# Bark has no forward of its own: this is the first of its parts.
PARTS = {"bark": Architecture("bark", "BarkSemanticModel", "causal-lm")}


def first_head(model_type):
    if model_type in PARTS:
        return PARTS[model_type]
    found = architectures([model_type])
    assert found, f"transformers has no model type {model_type}"
    return found[0]


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ENCODERS.split() + DECODERS.split())
def test_all_attention_fused_and_none_wrong(model_type):
    row = examine(first_head(model_type), INPUTS.get(model_type))
    assert not row.wrong
    assert row.status == DONE, row.reason
    assert row.attentions > 0 and row.fused == row.attentions, row.misses


def test_the_list_is_complete():
    assert len({*ENCODERS.split(), *DECODERS.split()}) == 44
