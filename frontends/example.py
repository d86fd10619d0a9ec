"""Example inputs for transformers models, from the forward signature and the config.

Sizes are at least 2, differ from each other and from the sizes in the config, so that nothing is equal by accident:
torch would take such an equality for part of the model.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from graphwright.frontends.tasks import is_decoder, is_encoder_decoder
from graphwright.ir.errors import CaptureError

Names = tuple[str | None, ...]

_BATCHES = (3, 5, 2, 7)
_LENGTHS = (11, 13, 17, 19, 23, 7, 5, 6)
_FRAMES = 9


@dataclass
class Inputs:
    """Keyword arguments for a call, with a name for each dimension that may change."""

    values: dict[str, Any] = field(default_factory=dict)
    names: dict[str, Names] = field(default_factory=dict)

    def add(self, name: str, value: Any, *names: str | None) -> None:
        """Add an argument; `None` names stay static."""
        self.values[name] = value
        self.names[name] = names


def example_inputs(model: Any, task: str) -> Inputs:
    """Inputs for one call of `model` without a cache.

    Args:
        model: A transformers model.
        task: As from `graphwright.frontends.tasks.task_of`.

    Raises:
        CaptureError: The main input is of a kind that cannot be made up from the config.
    """
    return _Builder(model, task).build()


class _Builder:
    def __init__(self, model: Any, task: str) -> None:
        self.model, self.task, self.config = model, task, model.config
        self.parameters = inspect.signature(model.forward).parameters
        self.text = text_config(self.config)
        self.random = torch.Generator().manual_seed(0)
        taken = set(numbers(self.config))
        self.batch = next((size for size in _BATCHES if size not in taken), _BATCHES[0])
        self.lengths = [size for size in _LENGTHS if size not in taken and size < self.longest()] or [2, 3]
        self.inputs = Inputs()

    def build(self) -> Inputs:
        for name in self.wanted():
            make = getattr(self, name, None)
            if make is None:
                raise self.unknown(name)
            make()
        if self.takes("use_cache") and (self.task != "feature-extraction" or is_decoder(self.model)):
            self.inputs.add("use_cache", False)
        return self.inputs

    def unknown(self, name: str) -> CaptureError:
        """The error for an input whose shape or meaning no config tells."""
        return CaptureError(
            f"{type(self.model).__name__} needs the input '{name}', which cannot be made up from its config",
            remedies=["pass example inputs: capture(model, inputs)"],
        )

    def wanted(self) -> Iterator[str]:
        """The inputs of the call, main input first."""
        main = self.model.main_input_name
        if self.takes(main):
            yield main
        required = [
            name
            for name, parameter in self.parameters.items()
            if parameter.default is inspect.Parameter.empty
            and parameter.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        ]
        yield from (name for name in required if name != main)
        if main == "input_ids" and self.takes("attention_mask"):
            yield "attention_mask"
        yield from (name for name in self.other_towers() if name not in required and name != main)
        if is_encoder_decoder(self.model) and self.takes("decoder_input_ids"):
            yield "decoder_input_ids"

    def other_towers(self) -> Iterator[str]:
        """The second input of a two-tower model; a language model that can also see or hear is captured for text."""
        if not (hasattr(self.model, "get_text_features") and self.takes("input_ids")):
            return
        if self.model.main_input_name != "input_ids":
            yield "input_ids"
            if self.takes("attention_mask"):
                yield "attention_mask"
        yield from (name for name in ("pixel_values", "input_features") if self.takes(name))

    def takes(self, name: str) -> bool:
        return name in self.parameters

    # ---- sizes -------------------------------------------------------------------------------

    def longest(self) -> int:
        """Longest sequence that learned positions allow."""
        names = ("max_position_embeddings", "n_positions", "max_target_positions", "max_length_positions")
        limits = [first(self.text, name) for name in names]
        return min((limit for limit in limits if isinstance(limit, int) and limit > 3), default=64) - 2

    def vocabulary(self, config: Any = None) -> int:
        size = first(config or self.text, "vocab_size")
        if isinstance(size, int):
            return size
        try:
            return int(self.model.get_input_embeddings().num_embeddings)
        except (NotImplementedError, AttributeError):
            raise self.unknown("input_ids") from None

    def tokens(self, *shape: int) -> torch.Tensor:
        """Token numbers, none of which means something special."""
        ids = [value for name, value in settings(self.config) if name.endswith(("_token_id", "_token_index"))]
        special = {item for value in ids for item in (value if isinstance(value, (list, tuple)) else [value])}
        plain = [i for i in range(min(self.vocabulary(), 1000)) if i not in special] or [0]
        picks = torch.randint(len(plain), shape, generator=self.random)
        return torch.tensor(plain)[picks].to(self.model.device)

    def floats(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.random).to(self.model.device, self.model.dtype)

    # ---- inputs by parameter name ------------------------------------------------------------

    def input_ids(self) -> None:
        if self.task == "multiple-choice":
            self.inputs.add("input_ids", self.tokens(self.batch, 4, self.lengths[0]), "batch", "choices", "sequence")
            return
        ids = self.tokens(self.batch, self.lengths[0])
        end = getattr(self.text, "eos_token_id", None)
        if self.task in ("text-classification", "question-answering") and is_encoder_decoder(self.model):
            ids[:, -1] = int((end[0] if isinstance(end, (list, tuple)) else end) or 0)
        self.inputs.add("input_ids", ids, "batch", "sequence")

    def attention_mask(self) -> None:
        ids = self.inputs.values["input_ids"]
        self.inputs.add("attention_mask", torch.ones_like(ids), *self.inputs.names["input_ids"])

    def token_type_ids(self) -> None:
        ids = self.inputs.values["input_ids"]
        self.inputs.add("token_type_ids", torch.zeros_like(ids), *self.inputs.names["input_ids"])

    def decoder_input_ids(self) -> None:
        length = self.lengths[1 % len(self.lengths)]
        self.inputs.add("decoder_input_ids", self.tokens(self.batch, length), "batch", "decoder_sequence")

    def bbox(self) -> None:
        boxes = torch.tensor([10, 20, 30, 40]).expand(self.batch, self.lengths[0], 4).contiguous()
        self.inputs.add("bbox", boxes.to(self.model.device), "batch", "sequence", None)

    def pixel_values(self) -> None:
        channels = self.vision("num_channels", "in_channels", "in_chans") or 3
        size = self.vision("image_size", "input_size", "img_size")
        height, width = pair(size) if size else (64, 96)
        frames = self.vision("num_frames", "frames_per_clip")
        moving = isinstance(frames, int) and frames > 1
        free = (None, None) if size else ("height", "width")
        if moving:
            images = self.floats(self.batch, frames, channels, height, width)
            self.inputs.add("pixel_values", images, "batch", None, None, *free)
        else:
            self.inputs.add("pixel_values", self.floats(self.batch, channels, height, width), "batch", None, *free)

    def vision(self, *names: str) -> Any:
        """A setting of the part of the config that is about images."""
        parts = (getattr(self.config, part, None) for part in ("vision_config", "backbone_config"))
        values = (first(part, *names) for part in (*parts, self.config) if part is not None)
        return next((value for value in values if value is not None), None)

    def pixel_values_videos(self) -> None:
        frames = first(self.config, "frames_per_clip", "num_frames") or 4
        size = pair(first(self.config, "image_size", "crop_size") or 32)
        shape = (self.batch, frames, first(self.config, "in_chans", "num_channels") or 3, *size)
        self.inputs.add("pixel_values_videos", self.floats(*shape), "batch", None, None, None, None)

    def input_values(self) -> None:
        bins = first(self.config, "num_mel_bins")
        if bins and first(self.config, "max_length"):
            self.inputs.add("input_values", self.floats(self.batch, self.config.max_length, bins), "batch", None, None)
        elif first(self.config, "audio_channels"):
            samples = self.floats(self.batch, self.config.audio_channels, self.samples())
            self.inputs.add("input_values", samples, "batch", None, "samples")
        elif bins and not first(self.config, "conv_stride"):
            self.inputs.add("input_values", self.floats(self.batch, self.lengths[0], bins), "batch", "frames", None)
        else:
            self.inputs.add("input_values", self.floats(self.batch, self.samples()), "batch", "samples")

    def samples(self) -> int:
        """Audio samples that a strided convolutional front end turns into a few frames."""
        strides = first(self.config, "conv_stride") or [320]
        kernels = first(self.config, "conv_kernel") or [400]
        step = math.prod(strides)
        field, jump = 1, 1
        for kernel, stride in zip(kernels, strides, strict=False):
            field, jump = field + (kernel - 1) * jump, jump * stride
        return field + step * _FRAMES + 1

    def input_features(self) -> None:
        audio = getattr(self.config, "audio_config", None) or self.config
        bins = first(audio, "num_mel_bins", "input_feat_per_channel", "feature_projection_input_dim", "input_dim") or 80
        positions = first(audio, "max_source_positions")
        if first(audio, "input_channels"):
            bins *= audio.input_channels
            self.inputs.add("input_features", self.floats(self.batch, 48, bins), "batch", "frames", None)
        elif first(audio, "spec_size"):
            shape = (self.batch, 1, audio.spec_size * first(audio, "freq_ratio"), bins)
            self.inputs.add("input_features", self.floats(*shape), "batch", None, None, None)
        elif positions and not first(audio, "feature_projection_input_dim"):
            self.inputs.add("input_features", self.floats(self.batch, bins, 2 * positions), "batch", None, None)
        else:
            self.inputs.add("input_features", self.floats(self.batch, 48, bins), "batch", "frames", None)


def text_config(config: Any) -> Any:
    """The part of a config that is about text; the config itself where it has no parts."""
    found = config.get_text_config(decoder=False) if hasattr(config, "get_text_config") else config
    return found if hasattr(found, "vocab_size") else getattr(config, "text_config", None) or found


def first(config: Any, *names: str) -> Any:
    """The first of these settings that a config has and that is not None."""
    return next((value for name in names if (value := getattr(config, name, None)) is not None), None)


def pair(size: Any) -> tuple[int, int]:
    """Height and width of an image size, which configs write as a number, a pair or a mapping."""
    if isinstance(size, int):
        return size, size
    values: Iterable[int] = size.values() if isinstance(size, dict) else size
    height, width, *_ = [*values] * 2
    return height, width


def settings(config: Any) -> Iterator[tuple[str, Any]]:
    """(name, value) of all settings, those of nested configs included."""
    for name, value in vars(config).items():
        if hasattr(value, "to_dict"):
            yield from settings(value)
        else:
            yield name, value


def numbers(config: Any) -> Iterator[int]:
    """All whole numbers in a config."""
    for _, value in settings(config):
        items = value if isinstance(value, (list, tuple)) else [value]
        yield from (item for item in items if isinstance(item, int) and not isinstance(item, bool))
