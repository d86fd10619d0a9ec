"""ModelState: what a captured graph takes for granted about its model, and a quick test whether that still holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import attrgetter, getitem, is_
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_CHILDREN = ("_parameters", "_buffers", "_modules")
_PRIVATE = frozenset(nn.Module().__dict__) - {"training"}
_INERT = {"in_features", "out_features", "nf", "nx", "num_embeddings", "embedding_dim", "norm_type", "sparse"}
_INERT |= {"scale_grad_by_freq", "normalized_shape", "elementwise_affine", "layer_idx", "_is_hf_initialized"}
_SIMPLE = (bool, int, float, str, type(None))
_UNWATCHED = _PRIVATE | _INERT
_LIBRARY_HOOKS = "transformers.utils.output_capturing"
_dtype, _version = attrgetter("dtype"), attrgetter("_version")


class ModelState:
    """A model's modules, tensors, settings and hooks at one time.

    Settings are the plain attributes of each module and of its config. Values of parameters may change freely (graphs
    read them anew); buffers may not, because graphs fold them.

    Attributes:
        refusal: Why no graph can serve the model in this state, None if one can.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        slots = {(id(holder), name): (holder, name) for module in modules for holder, name in _slots(module)}.values()
        self._holders = [holder for holder, _ in slots]
        self._names = [name for _, name in slots]
        self._objects = list(map(getitem, self._holders, self._names))
        self._attributes = list(map(vars, modules))
        self._lengths = list(map(len, self._attributes))
        self._hooks = [vars(module)[kind] for module in modules for kind in _HOOKS]
        self._hook_counts = list(map(len, self._hooks)) if any(self._hooks) else None
        self._next_hook = RemovableHandle.next_id
        self._tensors = [value for value in self._objects if isinstance(value, torch.Tensor)]
        self._dtypes = list(map(_dtype, self._tensors))
        self._buffers = [tensor for tensor in self._tensors if not isinstance(tensor, nn.Parameter)]
        self._device = self._tensors[0].device if self._tensors else None
        self.refusal = _refusal(modules)
        self._versions = [] if self.refusal else list(map(_version, self._buffers))

    def holds(self) -> bool:
        """Whether the model is still as it was; takes well under a microsecond per module."""
        try:
            same = all(map(is_, map(getitem, self._holders, self._names), self._objects))
        except KeyError:
            return False
        return (
            same
            and list(map(len, self._attributes)) == self._lengths
            and self._has_same_hooks()
            and list(map(_dtype, self._tensors)) == self._dtypes
            and (bool(self.refusal) or list(map(_version, self._buffers)) == self._versions)
            and (self._device is None or self._tensors[0].device == self._device)
        )

    def _has_same_hooks(self) -> bool:
        if self._hook_counts is not None:
            return list(map(len, self._hooks)) == self._hook_counts
        if self._next_hook == RemovableHandle.next_id:  # nobody has registered a hook anywhere
            return True
        if any(self._hooks):
            return False
        self._next_hook = RemovableHandle.next_id
        return True

    def parameters(self) -> list[torch.Tensor]:
        """The trainable parameters, each once."""
        found = {id(t): t for t in self._tensors if isinstance(t, nn.Parameter) and t.requires_grad}
        return list(found.values())

    def versions(self) -> list[int]:
        """Version counters of all tensors: they go up when a tensor is written to."""
        return list(map(_version, self._tensors))


def _slots(module: nn.Module) -> Iterator[tuple[dict[str, Any], str]]:
    """(dict, key) of everything about a module that a graph depends on."""
    attributes = vars(module)
    for name in _CHILDREN:
        holder = attributes[name]
        yield from ((holder, key) for key in holder)
    for name, value in attributes.items():
        if name not in _UNWATCHED and isinstance(value, (*_SIMPLE, torch.Tensor)):
            yield attributes, name
    yield from _config_slots(attributes.get("config"))


def _config_slots(config: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """The same of a config and, one level down, of the configs in it."""
    if config is None or isinstance(config, Mapping) or not hasattr(config, "__dict__"):
        return
    settings = vars(config)
    for name, value in settings.items():
        yield settings, name
        if hasattr(value, "__dict__") and hasattr(value, "to_dict"):
            yield from ((vars(value), inner) for inner in vars(value))


def _refusal(modules: list[nn.Module]) -> str | None:
    for module in modules:
        name = type(module).__name__
        if "forward" in vars(module):
            return f"the forward of a {name} was replaced"
        if getattr(module, "gradient_checkpointing", False) and module.training:
            return "gradient checkpointing is on"
        for kind in _HOOKS:
            hooks = vars(module)[kind].values()
            if any(getattr(hook, "__module__", "") != _LIBRARY_HOOKS for hook in hooks):
                return f"a {name} has hooks"
    tensors = [tensor for module in modules for tensor in (*module._parameters.values(), *module._buffers.values())]
    for tensor in tensors:
        if tensor is not None and type(tensor) not in (torch.Tensor, nn.Parameter):
            return f"a weight is a {type(tensor).__name__}"
        if tensor is not None and tensor.requires_grad and type(tensor) is not nn.Parameter:
            return "a weight that needs a gradient is not a parameter"
        if tensor is not None and tensor.is_inference():
            return "a weight was made in inference mode"
    return None
