"""What a transformers model is for, from its class name and config."""

from __future__ import annotations

from typing import Any

from graphwright.ir.errors import InputError

_SUFFIXES = {
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForQuestionAnsweringSimple": "question-answering",
    "ForMultipleChoice": "multiple-choice",
    "ForNextSentencePrediction": "next-sentence-prediction",
    "ForPreTraining": "pretraining",
    "ForImageClassification": "image-classification",
    "ForObjectDetection": "object-detection",
    "ForAudioClassification": "audio-classification",
    "ForSemanticSegmentation": "semantic-segmentation",
    "ForUniversalSegmentation": "image-segmentation",
    "ForInstanceSegmentation": "image-segmentation",
    "ForDepthEstimation": "depth-estimation",
    "ForMaskedImageModeling": "masked-image-modeling",
    "ForCTC": "automatic-speech-recognition",
    "ForAudioFrameClassification": "audio-frame-classification",
    "ForXVector": "audio-xvector",
}
_WITH_PAST = "-with-past"
_ALIASES = {
    "default": "feature-extraction",
    "sequence-classification": "text-classification",
    "sentiment-analysis": "text-classification",
    "masked-lm": "fill-mask",
    "masked-im": "masked-image-modeling",
    "causal-lm": "text-generation",
    "seq2seq-lm": "text2text-generation",
    "summarization": "text2text-generation",
    "translation": "text2text-generation",
    "speech2seq-lm": "automatic-speech-recognition",
    "sentence-embedding": "sentence-similarity",
}


def is_pretrained(model: Any) -> bool:
    """Whether `model` is a transformers model; transformers is not imported for the question."""
    return any(base.__name__ == "PreTrainedModel" for base in type(model).__mro__)


def task_of(model: Any) -> str:
    """The task a model's class is made for, such as `fill-mask`; `feature-extraction` for a bare model."""
    name = type(model).__name__
    for suffix, task in _SUFFIXES.items():
        if name.endswith(suffix):
            return "audio-classification" if task == "text-classification" and _hears(model) else task
    if name == "SentenceEmbedder":
        return "sentence-similarity"
    if generates(model):
        return _generation(model)
    return "feature-extraction"


def generates(model: Any) -> bool:
    """Whether the model has a language-model head that `generate` can drive."""
    can_generate = getattr(type(model), "can_generate", None)
    return bool(can_generate and can_generate()) or type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))


def _generation(model: Any) -> str:
    if is_encoder_decoder(model):
        if model.main_input_name == "pixel_values":
            return "image-to-text"
        return "automatic-speech-recognition" if _hears(model) else "text2text-generation"
    return "image-text-to-text" if getattr(model.config, "vision_config", None) is not None else "text-generation"


def is_encoder_decoder(model: Any) -> bool:
    """Whether the model takes inputs for an encoder and for a decoder."""
    return bool(getattr(model.config, "is_encoder_decoder", False))


def is_decoder(model: Any) -> bool:
    """Whether a bare model is the trunk of a model that generates, and keeps a cache by default."""
    if is_encoder_decoder(model):
        return True
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    kind = type(model.config)
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING and kind not in MODEL_FOR_MASKED_LM_MAPPING


def _hears(model: Any) -> bool:
    return model.main_input_name in ("input_features", "input_values")


def _compares_images(model: Any) -> bool:
    return hasattr(model, "get_text_features") and hasattr(model, "get_image_features")


def parse_task(model: Any, task: str | None) -> tuple[str, bool]:
    """The task to capture for, and whether with a key/value cache.

    Raises:
        InputError: The model's class has another task, or no cache.
    """
    own = task_of(model)
    if task is None:
        return own, False
    base = task.removesuffix(_WITH_PAST)
    with_past = base != task
    base = _ALIASES.get(base, base)
    if base == "zero-shot-image-classification" and _compares_images(model):
        return base, False
    if base != own:
        raise InputError(
            f"{type(model).__name__} cannot be captured for '{task}'",
            why=f"its task is '{own}'",
            remedies=["load the weights into the class for that task", f"leave task out, or use task='{own}'"],
        )
    if with_past and not generates(model):
        raise InputError(f"{type(model).__name__} has no key/value cache", remedies=[f"use task='{own}'"])
    return base, with_past
