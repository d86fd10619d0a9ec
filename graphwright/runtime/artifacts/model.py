"""A transformers model whose computation is an exported one.

The object is of the model's own class, built on torch's meta device (so without any weights), and its `forward` runs
the artifact. Everything else a class brings, such as `generate`, its logits processors, or Whisper's handling of long
audio, works as it is.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch

from graphwright.ir.errors import FileFormatError, InputError
from graphwright.lowering.artifact import Artifact
from graphwright.lowering.bundle import Bundle
from graphwright.runtime.artifacts.cache import ArtifactCache
from graphwright.runtime.artifacts.steps import decode, known


class ArtifactModel:
    """Mixin before a class of transformers: `forward` runs the artifact.

    `configure` passes options to all parts.
    """

    bundle: Bundle
    config: Any

    @property
    def device(self) -> torch.device:
        """Where inputs and outputs are: in the memory of this process."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Element type of the first floating output."""
        ports = [port for part in self.bundle.parts.values() for port in part.interface.outputs]
        return next((p.torch_dtype() for p in ports if p.torch_dtype().is_floating_point), torch.float32)

    def configure(self, **options: Any) -> ArtifactModel:
        """Pass options on to all parts; returns the model itself.

        ONNX Runtime takes `providers` and `session_options`; OpenVINO takes `device` and properties, and computes as
        the device chooses where there are none.
        """
        for part in self.bundle.parts.values():
            if hasattr(part, "configure"):
                part.configure(**options)
        return self

    def forward(self, **inputs: Any) -> Any:
        """Run on tensors by name; arguments that the artifact does not take are left out."""
        part = self.bundle.only
        missing = [name for name in part.input_names if not isinstance(inputs.get(name), torch.Tensor)]
        if "attention_mask" in missing and "input_ids" in inputs:
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if "token_type_ids" in missing and "input_ids" in inputs:
            inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
        return part.interface.unflatten(part.run(**known(part, inputs)))


class GenerativeModel(ArtifactModel):
    """Mixin of a model that generates with a decoder alone."""

    def forward(  # type: ignore[override]
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        **_: Any,
    ) -> Any:
        """One step; `past_key_values` is what the step before returned, or nothing."""
        from transformers.modeling_outputs import CausalLMOutputWithPast

        given = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        outputs, cache = decode(self.bundle.only, given, _cache(past_key_values))
        return CausalLMOutputWithPast(logits=outputs["logits"], past_key_values=cache)

    def _prepare_cache_for_generation(self, *args: Any, **kwargs: Any) -> bool:
        """None: the first step makes the cache."""
        return False


class Seq2SeqModel(GenerativeModel):
    """Mixin of a model with an encoder and a decoder."""

    def forward(  # type: ignore[override]
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: Any = None,
        **inputs: Any,
    ) -> Any:
        """The encoder unless its outputs are given, then one step of the decoder."""
        from transformers.modeling_outputs import Seq2SeqLMOutput

        if encoder_outputs is None:
            encoder_outputs = self.get_encoder()(input_ids=input_ids, attention_mask=attention_mask, **inputs)
        cache = _cache(past_key_values)
        parts = self.bundle.parts
        later = parts.get("decoder_with_past_model") if cache is not None else None
        given = {"input_ids": decoder_input_ids, "encoder_attention_mask": attention_mask}
        given["encoder_hidden_states"] = encoder_outputs[0]
        decoder = later or parts["decoder_model"]
        if "encoder_attention_mask" in decoder.input_names and attention_mask is None:
            given["encoder_attention_mask"] = torch.ones(encoder_outputs[0].shape[:2], dtype=torch.int64)
        outputs, cache = decode(decoder, given, cache)
        return Seq2SeqLMOutput(
            logits=outputs["logits"], past_key_values=cache, encoder_last_hidden_state=encoder_outputs[0]
        )

    def get_encoder(self, *args: Any, **kwargs: Any) -> Any:
        """The encoder as a module."""
        return Encoder(self.bundle.parts["encoder_model"])


class Encoder(torch.nn.Module):
    """The encoder of an exported model."""

    main_input_name = "input_ids"

    def __init__(self, artifact: Artifact) -> None:
        super().__init__()
        self.artifact = artifact
        self.main_input_name = artifact.input_names[0]

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        input_values: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        **_: Any,
    ) -> Any:
        """The last hidden state; a missing mask is all ones."""
        from transformers.modeling_outputs import BaseModelOutput

        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "input_features": input_features}
        inputs |= {"input_values": input_values, "pixel_values": pixel_values}
        main = inputs[self.main_input_name]
        if "attention_mask" in self.artifact.input_names and attention_mask is None and main is not None:
            inputs["attention_mask"] = torch.ones(main.shape[:2], dtype=torch.int64)
        outputs = self.artifact.run(**known(self.artifact, inputs))
        return BaseModelOutput(last_hidden_state=outputs["last_hidden_state"])


def _cache(past: Any) -> ArtifactCache | None:
    if past is None or isinstance(past, ArtifactCache):
        return past
    if past.get_seq_length() == 0:
        return None
    raise InputError(
        f"a {type(past).__name__} cannot be passed to an exported model",
        why="its cache is what a step before returned",
        remedies=["pass outputs.past_key_values of this model", "leave past_key_values out"],
    )


def artifact_model(bundle: Bundle, folder: Path) -> Any:
    """The model of a folder that `graphwright.export` wrote.

    Raises:
        FileFormatError: `config.json` names no class of transformers.
    """
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    name = (config.architectures or [""])[0]
    cls = getattr(transformers, name, None)
    if not inspect.isclass(cls):
        raise FileFormatError(
            "config.json names no class of transformers", at=str(folder), why=f"architectures is {config.architectures}"
        )
    model = _mixed(bundle, cls)(config)
    model.bundle = bundle
    if (folder / "generation_config.json").exists():
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model.eval()


def _mixed(bundle: Bundle, cls: Any) -> Any:
    """A class whose objects have no weights, and whose forward is the artifact's."""
    if "decoder_model" in bundle.parts:
        mixin: type = Seq2SeqModel
    else:
        mixin = GenerativeModel if bundle.task.startswith("text-generation") else ArtifactModel

    def build(config: Any) -> Any:
        with torch.device("meta"):
            return type(cls.__name__, (mixin, cls), {"__module__": cls.__module__})(config)

    return build
