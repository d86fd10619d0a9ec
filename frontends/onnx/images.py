"""ONNX convolutions, pooling and resizing."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from graphwright.frontends.onnx.normalization import optional
from graphwright.frontends.onnx.table import Call, register
from graphwright.frontends.onnx.values import numbers, tensor


def _pads(call: Call, dims: int) -> list[int]:
    """Padding before and after each dimension, (before..., after...)."""
    if call.attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise call.unsupported(f"auto_pad {call.attr('auto_pad')}", ["export with explicit pads"])
    return call.attr("pads") or [0] * 2 * dims


def _padded(call: Call, x: torch.Tensor, value: float = 0.0) -> tuple[torch.Tensor, list[int]]:
    """The tensor, padded where the two sides differ, and the padding left to the operator."""
    dims = x.dim() - 2
    pads = _pads(call, dims)
    before, after = pads[:dims], pads[dims:]
    if before == after:
        return x, before
    flat = [n for i in reversed(range(dims)) for n in (before[i], after[i])]
    return F.pad(x, flat, value=value), [0] * dims


@register("Conv")
def convolution(call: Call, x: Any, weight: Any, bias: Any = None) -> torch.Tensor:
    """Convolution of 1 to 3 dimensions."""
    x, padding = _padded(call, tensor(x))
    dims = x.dim() - 2
    function = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    strides, dilations = call.attr("strides") or [1] * dims, call.attr("dilations") or [1] * dims
    return function(x, tensor(weight), optional(bias), strides, padding, dilations, call.attr("group", 1))


@register("ConvTranspose")
def transposed_convolution(call: Call, x: Any, weight: Any, bias: Any = None) -> torch.Tensor:
    """Transposed convolution of 1 to 3 dimensions."""
    x = tensor(x)
    dims = x.dim() - 2
    pads = _pads(call, dims)
    if pads[:dims] != pads[dims:] or call.attr("output_shape"):
        raise call.unsupported("padding that differs between the sides")
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
    strides, dilations = call.attr("strides") or [1] * dims, call.attr("dilations") or [1] * dims
    extra = call.attr("output_padding") or [0] * dims
    return function(x, tensor(weight), optional(bias), strides, pads[:dims], extra, call.attr("group", 1), dilations)


@register("MaxPool")
def max_pool(call: Call, x: Any) -> torch.Tensor:
    """Largest value of each window."""
    if call.outputs > 1:
        raise call.unsupported("positions of the largest values")
    x, padding = _padded(call, tensor(x), float("-inf"))
    dims = x.dim() - 2
    function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dims - 1]
    strides, dilations = call.attr("strides") or [1] * dims, call.attr("dilations") or [1] * dims
    return function(x, call.attr("kernel_shape"), strides, padding, dilations, bool(call.attr("ceil_mode", 0)))


@register("AveragePool")
def average_pool(call: Call, x: Any) -> torch.Tensor:
    """Mean of each window."""
    x = tensor(x)
    dims = x.dim() - 2
    pads = _pads(call, dims)
    if pads[:dims] != pads[dims:]:
        raise call.unsupported("padding that differs between the sides")
    if any(n != 1 for n in call.attr("dilations") or ()):
        raise call.unsupported("dilations")
    function = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[dims - 1]
    strides, counted = call.attr("strides") or [1] * dims, bool(call.attr("count_include_pad", 0))
    return function(x, call.attr("kernel_shape"), strides, pads[:dims], bool(call.attr("ceil_mode", 0)), counted)


@register("GlobalAveragePool")
def global_average(call: Call, x: Any) -> torch.Tensor:
    """Mean of each channel."""
    x = tensor(x)
    return x.mean(list(range(2, x.dim())), True)


@register("GlobalMaxPool")
def global_max(call: Call, x: Any) -> torch.Tensor:
    """Largest value of each channel."""
    x = tensor(x)
    return x.amax(list(range(2, x.dim())), True)


@register("Resize")
def resize(call: Call, x: Any, roi: Any = None, scales: Any = None, sizes: Any = None) -> torch.Tensor:
    """Resampling of the dimensions after the first two."""
    x, mode = tensor(x), call.attr("mode", "nearest")
    coordinates = call.attr("coordinate_transformation_mode", "half_pixel")
    chosen = call.attr("axes") or list(range(x.dim()))
    given = numbers(sizes) if sizes is not None else numbers(scales)
    by_axis = dict(zip([axis % x.dim() for axis in chosen], given, strict=True))
    if not set(range(2)).isdisjoint(axis for axis, n in by_axis.items() if n not in (1, 1.0, x.shape[axis])):
        raise call.unsupported("resampling of the first two dimensions")
    spatial = range(2, x.dim())
    target: dict[str, Any] = {"size": [by_axis.get(i, x.shape[i]) for i in spatial]}
    if sizes is None:
        target = {"scale_factor": [by_axis.get(i, 1.0) for i in spatial]}
    _plain(call, mode)
    whole = _whole_factors(target, x)
    if mode == "nearest":
        return F.interpolate(x, **target, mode=_nearest(call, coordinates, whole))
    if coordinates not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        raise call.unsupported(f"coordinates '{coordinates}'")
    if coordinates == "align_corners" and sizes is None and not whole:
        raise call.unsupported("aligned corners with factors that are not whole")
    if coordinates == "pytorch_half_pixel" and any(isinstance(n, int) and n == 1 for n in target.get("size", ())):
        raise call.unsupported("coordinates 'pytorch_half_pixel' to a size of 1")
    kind = "bicubic" if mode == "cubic" else {3: "linear", 4: "bilinear", 5: "trilinear"}[x.dim()]
    return F.interpolate(x, **target, mode=kind, align_corners=coordinates == "align_corners")


def _plain(call: Call, mode: str) -> None:
    """Refuse refinements that torch does not have."""
    if call.attr("antialias", 0) or call.attr("exclude_outside", 0):
        raise call.unsupported("antialiasing, or weights without what is outside")
    if call.attr("keep_aspect_ratio_policy", "stretch") != "stretch" or call.attr("extrapolation_value", 0.0):
        raise call.unsupported("keeping the aspect ratio, or a value for what is outside")
    if mode == "cubic" and abs(call.attr("cubic_coeff_a", -0.75) + 0.75) > 1e-6:
        raise call.unsupported("a cubic coefficient other than -0.75")
    call.read.update(("nearest_mode", "cubic_coeff_a"))


def _whole_factors(target: dict[str, Any], x: torch.Tensor) -> bool:
    """Whether every dimension is enlarged by a whole number, known for all inputs."""
    if "scale_factor" in target:
        return all(float(n).is_integer() and n >= 1 for n in target["scale_factor"])
    pairs = list(zip(target["size"], x.shape[2:], strict=True))
    return all(isinstance(have, int) and isinstance(want, int) and want % have == 0 for want, have in pairs)


def _nearest(call: Call, coordinates: str, whole: bool) -> str:
    """Torch's name for a way to find the nearest pixel; it breaks ties upwards, and whole factors have none."""
    rounding = call.attr("nearest_mode", "round_prefer_floor")
    if coordinates == "asymmetric" and rounding == "floor":
        return "nearest"
    half = coordinates in ("half_pixel", "pytorch_half_pixel")
    if half and (rounding == "round_prefer_ceil" or (whole and rounding == "round_prefer_floor")):
        return "nearest-exact"
    raise call.unsupported(f"nearest with coordinates '{coordinates}' and rounding '{rounding}'")
