"""The architectures of the table, as tiny models with random weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.coverage.architectures import Architecture
from benchmarks.coverage.tiny import candidates, scale
from graphwright.frontends.capture import capture
from graphwright.frontends.example import example_inputs
from graphwright.frontends.parts import parts
from graphwright.frontends.tasks import task_of
from graphwright.ir.program import Program

FACTOR = 2.0
CACHE = "text-generation-with-past"

_CLASSES = """
bert/BertModel roberta/RobertaForMaskedLM distilbert/DistilBertForSequenceClassification albert/AlbertModel
electra/ElectraModel deberta-v2/DebertaV2Model mpnet/MPNetModel xlm-roberta/XLMRobertaModel camembert/CamembertModel
roformer/RoFormerModel modernbert/ModernBertModel gpt2/GPT2LMHeadModel gpt2+cache/GPT2LMHeadModel
gpt_neox/GPTNeoXForCausalLM opt/OPTForCausalLM bloom/BloomForCausalLM falcon/FalconForCausalLM llama/LlamaForCausalLM
llama+cache/LlamaForCausalLM mistral/MistralForCausalLM qwen2/Qwen2ForCausalLM qwen3/Qwen3ForCausalLM
gemma2/Gemma2ForCausalLM phi3/Phi3ForCausalLM mixtral/MixtralForCausalLM t5/T5ForConditionalGeneration
bart/BartForConditionalGeneration marian/MarianMTModel whisper/WhisperForConditionalGeneration vit/ViTModel
deit/DeiTModel beit/BeitModel dinov2/Dinov2Model swin/SwinModel convnext/ConvNextModel resnet/ResNetModel
segformer/SegformerModel clip/CLIPModel wav2vec2/Wav2Vec2Model hubert/HubertModel
"""
NAMES = tuple(_CLASSES.split())


@dataclass
class Case:
    """A model and the program that was captured from it."""

    model: Any
    program: Program


def build(name: str) -> Case:
    """The smallest model of `bert/BertModel` that runs, weights scaled; `+cache` for one step of a decoder.

    Raises:
        ValueError: No config gives a model that runs on made-up inputs.
    """
    model_type, _, class_name = name.partition("/")
    model_type, _, cache = model_type.partition("+")
    for tiny in candidates(Architecture(model_type, class_name, "")):
        model = tiny.model.float().eval()
        if not _runs(model):
            continue
        scale(model, FACTOR)
        program = parts(model, CACHE)[0].capture() if cache else capture(model)
        return Case(model, program)
    raise ValueError(f"no config of {name} gives a model that runs on made-up inputs")


def _runs(model: Any) -> bool:
    try:
        with torch.no_grad():
            model(**example_inputs(model, task_of(model)).values)
    except Exception:
        return False
    return True
