"""The programs that a transformers model becomes for a task, with the names that exported models have elsewhere.

| task | parts | inputs and outputs |
|---|---|---|
| encoders, vision, audio, two towers | `model` | those of the class; the outputs that the task is about |
| `text-generation-with-past` | `model` | `position_ids` and a cache as well, `present.*` beside the logits |
| `text2text-generation`, speech recognition | `encoder_model`, `decoder_model` | hidden states in between |
| the same `-with-past` | and `decoder_with_past_model` | the first step returns the cache that the others take |
| `sentence-similarity` | `model` | `token_embeddings`, `sentence_embedding` |

Names and dimensions are those of Optimum: `batch_size`, `past_sequence_length + sequence_length`.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any

import torch

from graphwright.frontends.example import Inputs, example_inputs
from graphwright.frontends.faces import decoder_face, encoder_face, output_face
from graphwright.frontends.past import decoder_start, suggested_axes, with_past
from graphwright.frontends.smallest import export_checked
from graphwright.frontends.tasks import generates, is_encoder_decoder, parse_task
from graphwright.ir.errors import InputError
from graphwright.ir.program import Program

OUTPUTS = {
    "feature-extraction": ("last_hidden_state",),
    "question-answering": ("start_logits", "end_logits"),
    "object-detection": ("logits", "pred_boxes"),
    "depth-estimation": ("predicted_depth",),
    "audio-xvector": ("logits", "embeddings"),
    "masked-image-modeling": ("reconstruction",),
    "zero-shot-image-classification": ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds"),
    "text-generation": ("logits", "past_key_values"),
    "sentence-similarity": ("token_embeddings", "sentence_embedding"),
}
_LOGITS = ("logits",)
_SEGMENTED = ("albert", "bert", "convbert", "deberta", "deberta-v2", "electra", "layoutlm", "nystromformer", "roformer")
_DIMS = {
    "batch": "batch_size",
    "sequence": "sequence_length",
    "past_sequence": "past_sequence_length",
    "decoder_sequence": "decoder_sequence_length",
    "samples": "sequence_length",
    "frames": "sequence_length",
    "choices": "num_choices",
    "text_batch": "text_batch_size",
    "image_batch": "image_batch_size",
}
_SEQ2SEQ_DIMS = {"sequence": "encoder_sequence_length", "past_sequence": "past_decoder_sequence_length"}


@dataclass(frozen=True)
class Part:
    """A piece of a model that becomes one program.

    Args:
        name: Name of the file that it becomes: `model`, `encoder_model`, `decoder_model`, `decoder_with_past_model`.
        module: What is captured: a face of the model that computes this piece.
        inputs: Example inputs.
        dims: Names of the dynamic dimensions where they differ from those of `capture`.
    """

    name: str
    module: torch.nn.Module
    inputs: Inputs
    dims: dict[str, str]

    def capture(self) -> Program:
        """The program of this part.

        Raises:
            CaptureError: It cannot be captured; names the line in the model's source.
        """
        values = self.inputs.values
        name = type(self.module).__name__
        program = export_checked(self.module, (), values, suggested=suggested_axes(self.inputs), name=name)
        program.dims = tuple(replace(dim, name=self.dims.get(dim.name, dim.name)) for dim in program.dims)
        return program


def parts(model: Any, task: str | None = None, *, last_logits: bool = False) -> tuple[Part, ...]:
    """What to capture of a transformers model for a task.

    Args:
        model: A transformers model, or a `SentenceEmbedder`.
        task: Such as `fill-mask` or `text-generation-with-past`; by default that of the model's class, with a cache
            where the model generates.
        last_logits: For a decoder that generates: only the logits of the last position, which are all that
            `generate` reads. A long prompt is then not multiplied with the vocabulary.

    Raises:
        InputError: The model's class has another task, or it cannot leave out logits.
        CaptureError: Example inputs cannot be made up from the config.
    """
    task = full_task(model, task)
    base = task.removesuffix("-with-past")
    past = base != task
    fixed = _last_logits(model, base) if last_logits else {}
    if is_encoder_decoder(model) and generates(model):
        return _seq2seq(model, base, past)
    inputs = example_inputs(model, base)
    if model.config.model_type in _SEGMENTED and getattr(model.config, "type_vocab_size", 0) > 0:
        _add_segments(model, inputs)
    if base == "zero-shot-image-classification":
        _separate_batches(inputs)
    if past:
        inputs = with_past(model, inputs, positions=True)
    names = OUTPUTS.get(base, _LOGITS)
    return (Part("model", output_face(model, names, **fixed), inputs, _DIMS),)


def _last_logits(model: Any, task: str) -> dict[str, Any]:
    """The argument with which the model returns the logits of the last position alone."""
    if task != "text-generation" or "logits_to_keep" not in inspect.signature(model.forward).parameters:
        raise InputError(
            f"{type(model).__name__} cannot be captured with the last logits alone for '{task}'",
            why="its forward takes no `logits_to_keep`" if task == "text-generation" else "only text generation can",
        )
    return {"logits_to_keep": 1}


def full_task(model: Any, task: str | None) -> str:
    """The task in full: that of the model's class if none is asked for, with a cache if the model generates.

    Raises:
        InputError: The model's class has another task.
    """
    base, past = parse_task(model, task)
    return f"{base}-with-past" if past or (task is None and generates(model)) else base


def _add_segments(model: Any, inputs: Inputs) -> None:
    """`token_type_ids`, which the tokenizers of these models return."""
    ids = inputs.values["input_ids"]
    kinds = torch.arange(ids.shape[-1], device=ids.device) * model.config.type_vocab_size // ids.shape[-1]
    inputs.add("token_type_ids", kinds.expand_as(ids).contiguous(), *inputs.names["input_ids"])


def _separate_batches(inputs: Inputs) -> None:
    """Any number of texts with any number of images."""
    pixels = inputs.values["pixel_values"]
    inputs.add("pixel_values", pixels[:-1], "image_batch", *inputs.names["pixel_values"][1:])
    for name in ("input_ids", "attention_mask"):
        if name in inputs.values:
            inputs.names[name] = ("text_batch", *inputs.names[name][1:])


def _seq2seq(model: Any, task: str, past: bool) -> tuple[Part, ...]:
    inputs = example_inputs(model, task)
    encoder = Inputs()
    for name in (model.main_input_name, "attention_mask"):
        if name in inputs.values:
            encoder.add(name, inputs.values[name], *inputs.names[name])
    start = decoder_start(model, inputs)
    dims = {**_DIMS, **_SEQ2SEQ_DIMS}
    decoder = decoder_face(model, past)
    found = [
        Part("encoder_model", encoder_face(model), encoder, {**dims, "frames": "encoder_sequence_length"}),
        Part("decoder_model", decoder, start, dims),
    ]
    if past:
        step = with_past(model, inputs, hidden=start.values["encoder_hidden_states"])
        later = Inputs(dict(start.values), dict(start.names))
        later.add("input_ids", step.values["decoder_input_ids"], *step.names["decoder_input_ids"])
        later.add("past_key_values", step.values["past_key_values"])
        found.append(Part("decoder_with_past_model", decoder, later, dims))
    return tuple(found)
