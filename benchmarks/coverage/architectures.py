"""The architectures of transformers: each model type with each kind of head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

HEADS = {
    "causal-lm": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "seq2seq-lm": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "masked-lm": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "image-text": "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "speech": "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    "ctc": "MODEL_FOR_CTC_MAPPING_NAMES",
    "audio-class": "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
    "image-class": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "video-class": "MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES",
    "detection": "MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES",
    "segmentation": "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES",
    "universal-seg": "MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES",
    "depth": "MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES",
    "pretraining": "MODEL_FOR_PRETRAINING_MAPPING_NAMES",
    "question": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    "text-class": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "token-class": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "choice": "MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES",
    "base": "MODEL_MAPPING_NAMES",
}
# A pretraining or classification head says little where the same type has a head that was examined already.
_EXTRA = ("pretraining", "question", "text-class", "token-class", "choice")


@dataclass(frozen=True, order=True)
class Architecture:
    """One class of one model type.

    Args:
        model_type: As in a config file: `bert`.
        class_name: `BertForMaskedLM`.
        head: A key of `HEADS`.
    """

    model_type: str
    class_name: str
    head: str

    def __str__(self) -> str:
        return f"{self.model_type}/{self.class_name}"


def architectures(only: Sequence[str] = (), *, every: bool = False) -> list[Architecture]:
    """All architectures, by model type.

    Args:
        only: Model types or class names to keep, all if empty.
        every: With the heads whose body another head of the same type has already; without, one class stands for a
            body and the base class is left out where a head contains it.
    """
    found: dict[tuple[str, str], Architecture] = {}
    for item in _listed(every):
        found.setdefault((item.model_type, item.class_name), item)
    chosen = sorted(found.values())
    return [item for item in chosen if not only or item.model_type in only or item.class_name in only]


def _listed(every: bool) -> Iterator[Architecture]:
    seen: set[str] = set()
    for head, mapping in HEADS.items():
        items = list(_mapping(mapping))
        for model_type, class_name in items:
            if every or model_type not in seen or head not in (*_EXTRA, "base"):
                yield Architecture(model_type, class_name, head)
        seen.update(model_type for model_type, _ in items)


def _mapping(name: str) -> Iterator[tuple[str, str]]:
    import transformers.models.auto.modeling_auto as auto

    for model_type, classes in getattr(auto, name, {}).items():
        for class_name in [classes] if isinstance(classes, str) else classes:
            yield model_type, class_name


def config_class(architecture: Architecture) -> type[Any]:
    """The config class of an architecture: its model class's own, which may be the text part of the model type's."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return getattr(model_class(architecture), "config_class", None) or CONFIG_MAPPING[architecture.model_type]


def model_class(architecture: Architecture) -> type[Any]:
    """The model's class.

    Raises:
        AttributeError: transformers has no such class, or it needs a package that is not installed.
    """
    import transformers

    return getattr(transformers, architecture.class_name)
