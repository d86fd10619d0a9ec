"""Faces of a model: objects with its class, weights and state names, but another `forward`.

A piece of a model (its encoder, one step of its decoder) is captured through a face, so that the state of each piece
has the names of the whole model, and nothing of the model is copied or touched.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

Model = TypeVar("Model", bound=torch.nn.Module)


def face(model: Model, forward: Callable[..., Any], suffix: str) -> Model:
    """An object that shares all of the model's content and has this `forward` (its first argument is the face).

    Args:
        model: The model; it is not touched.
        forward: What calls do.
        suffix: Goes behind the name of the class.
    """
    cls = type(model)
    name = cls.__name__ + suffix
    copy: Any = object.__new__(type(name, (cls,), {"forward": forward, "__module__": cls.__module__}))
    copy.__dict__.update({key: value for key, value in vars(model).items() if key != "forward"})
    return copy


def output_face(model: Any, names: Sequence[str], **fixed: Any) -> Any:
    """A face that returns only these fields of the model's output, in the same class, called with `fixed` arguments."""
    original = type(model).forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs, **fixed)
        kept = [name for name in names if result.get(name) is not None]
        return type(result)(**{name: result[name] for name in kept}) if kept else result

    forward.__signature__ = _signature(model)  # type: ignore[attr-defined]
    return face(model, forward, "")


def _signature(model: Any) -> inspect.Signature:
    own = inspect.signature(model.forward)
    first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    return own.replace(parameters=[first, *own.parameters.values()])


def encoder_face(model: Any) -> Any:
    """A face that runs the encoder and returns its last hidden state."""
    from transformers.modeling_outputs import BaseModelOutput

    def forward(self: Any, **inputs: Any) -> Any:
        result = self.get_encoder()(**inputs)
        return BaseModelOutput(last_hidden_state=result.last_hidden_state)

    return face(model, forward, "Encoder")


def decoder_face(model: Any, past: bool) -> Any:
    """A face that runs one step of the decoder on the encoder's hidden states, with a cache if `past`."""
    from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

    original = type(model).forward

    def forward(
        self: Any,
        input_ids: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
    ) -> Any:
        mask = {} if encoder_attention_mask is None else {"attention_mask": encoder_attention_mask}
        result = original(
            self,
            decoder_input_ids=input_ids,
            encoder_outputs=BaseModelOutput(last_hidden_state=encoder_hidden_states),
            past_key_values=past_key_values,
            use_cache=past,
            **mask,
        )
        return Seq2SeqLMOutput(logits=result.logits, past_key_values=result.past_key_values if past else None)

    return face(model, forward, "Decoder")
