"""The 44 model types that BetterTransformer covered, and was silently wrong for some of: all fused, none wrong.

Each tiny model has scaled weights and is compared in float64 with the unmodified one: without padding, with right, left
and scattered padding, with batch 1 and at other sizes. Among them are the ones it got wrong: gpt2, gpt_neo and opt
(masks dropped or ignored), t5 (scale), roformer (rotary positions dropped), albert (another GELU), and those it left
alone without a word.
"""

import pytest

from benchmarks.coverage.architectures import architectures
from benchmarks.coverage.examine import examine
from benchmarks.coverage.rows import DONE

ENCODERS = (
    "albert bart bert bert-generation camembert clip data2vec-text deit distilbert electra ernie fsmt hubert layoutlm"
    " m2m_100 marian markuplm mbart prophetnet rembert roberta roc_bert roformer splinter tapas vilt vit vit_mae"
    " vit_msn wav2vec2 xlm-roberta yolos"
)
DECODERS = "bark blenderbot blip-2 bloom codegen gpt2 gptj gpt_neo gpt_neox opt pegasus t5"

# Models whose inputs cannot be made up from their config, so that there is nothing to run here.
NO_INPUTS = {"bark", "blip-2", "splinter", "vilt"}


def first_head(model_type):
    found = architectures([model_type])
    assert found, f"transformers has no model type {model_type}"
    return found[0]


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ENCODERS.split() + DECODERS.split())
def test_all_attention_fused_and_none_wrong(model_type):
    row = examine(first_head(model_type))
    assert not row.wrong
    if model_type in NO_INPUTS and row.status != DONE:
        pytest.skip(row.reason)
    assert row.status == DONE, row.reason
    assert row.attentions > 0 and row.fused == row.attentions, row.misses


def test_the_list_is_complete():
    assert len({*ENCODERS.split(), *DECODERS.split()}) == 44
