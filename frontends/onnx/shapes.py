"""ONNX operators that change sizes and order, and that make tensors."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from graphwright.frontends.onnx.table import Call, register
from graphwright.frontends.onnx.values import Known, dtype_of, number, numbers, tensor
from graphwright.frontends.onnx.weights import as_tensor


def axes_of(call: Call, given: Any, rank: int) -> list[int] | None:
    """The axes of a node, an input since opset 13 or an attribute; None where there are none."""
    axes = numbers(given) if given is not None else call.attr("axes")
    return None if axes is None else [int(axis) % rank for axis in axes]


@register("Identity")
def identity(call: Call, x: Any) -> Any:
    """The value."""
    return x


@register("Dropout")
def dropout(call: Call, x: Any, ratio: Any = None, training: Any = None) -> Any:
    """Dropout when it is off: the value, and a mask that keeps everything."""
    if training is not None and not (isinstance(training, Known) and not number(training)):
        raise call.unsupported("dropout in training mode")
    x = tensor(x)
    return x if call.outputs == 1 else (x, torch.ones_like(x, dtype=torch.bool))


@register("Shape")
def shape(call: Call, x: Any) -> Known:
    """Sizes of a tensor."""
    return Known.of(list(tensor(x).shape)[call.attr("start", 0) : call.attr("end")])


@register("Size")
def size(call: Call, x: Any) -> Known:
    """Number of elements."""
    return Known.of(tensor(x).numel())


@register("Reshape")
def reshape(call: Call, x: Any, sizes: Any) -> torch.Tensor:
    """Other sizes; 0 keeps one, -1 is what remains."""
    x, wanted = tensor(x), numbers(sizes)
    if not call.attr("allowzero", 0):
        wanted = [x.shape[i] if isinstance(n, int) and n == 0 else n for i, n in enumerate(wanted)]
    return x.reshape(wanted)


@register("Flatten")
def flatten(call: Call, x: Any) -> torch.Tensor:
    """Two dimensions: those before the axis, and the rest."""
    x, axis = tensor(x), call.attr("axis", 1)
    axis += x.dim() if axis < 0 else 0
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@register("Transpose")
def transpose(call: Call, x: Any) -> torch.Tensor:
    """Dimensions in another order, by default reversed."""
    x = tensor(x)
    order = call.attr("perm") or list(reversed(range(x.dim())))
    moved = [i for i, n in enumerate(order) if i != n]
    if len(moved) == 2:
        return x.transpose(*moved)
    return x.permute(order) if moved else x


@register("Squeeze")
def squeeze(call: Call, x: Any, axes: Any = None) -> torch.Tensor:
    """Without dimensions of size 1."""
    x = tensor(x)
    wanted = axes_of(call, axes, x.dim())
    if wanted is None:
        return x.squeeze()
    return x.squeeze(wanted[0]) if len(wanted) == 1 else x.squeeze(wanted)


@register("Unsqueeze")
def unsqueeze(call: Call, x: Any, axes: Any = None) -> torch.Tensor:
    """New dimensions of size 1."""
    x = tensor(x)
    given = numbers(axes) if axes is not None else call.attr("axes")
    for axis in sorted(int(axis) % (x.dim() + len(given)) for axis in given):
        x = x.unsqueeze(axis)
    return x


@register("Expand")
def expand(call: Call, x: Any, sizes: Any) -> torch.Tensor:
    """Broadcast with sizes, of which those that are 1 keep the tensor's."""
    x, wanted = tensor(x), numbers(sizes)
    missing = len(wanted) - x.dim()
    wanted = [*x.shape[: max(-missing, 0)], *wanted]
    own = [1] * max(missing, 0) + list(x.shape)
    pairs = zip(own, wanted, strict=True)
    return x.expand([mine if isinstance(want, int) and want == 1 else want for mine, want in pairs])


@register("Tile")
def tile(call: Call, x: Any, repeats: Any) -> torch.Tensor:
    """Repeated along each dimension."""
    return tensor(x).repeat(numbers(repeats))


@register("Concat")
def concat(call: Call, *parts: Any) -> torch.Tensor:
    """One after the other."""
    return torch.cat([tensor(part) for part in parts], call.attr("axis"))


@register("Split")
def split(call: Call, x: Any, sizes: Any = None) -> tuple[torch.Tensor, ...]:
    """Parts of given sizes, or as many equal ones as there are outputs."""
    x, axis = tensor(x), call.attr("axis", 0)
    given = numbers(sizes) if sizes is not None else call.attr("split")
    if given is None:
        count = call.attr("num_outputs") or len(call.node.outputs)
        return tuple(x.split(-(-x.shape[axis] // count), axis))
    return tuple(x.split(given, axis))


@register("Slice")
def slices(call: Call, x: Any, *ends: Any) -> torch.Tensor:
    """A part along some axes; negative steps read backwards."""
    x = tensor(x)
    if not ends:
        ends = tuple(Known.of(call.attr(name)) if call.attr(name) else None for name in ("starts", "ends", "axes"))
    starts, stops, axes, steps = [None if part is None else numbers(part) for part in (*ends, None, None)[:4]]
    assert starts is not None and stops is not None
    for i, axis in enumerate(axes or range(len(starts))):
        step = steps[i] if steps else 1
        x = _slice(x, axis, starts[i], stops[i], step)
    return x


def _slice(x: torch.Tensor, axis: int, start: Any, stop: Any, step: int) -> torch.Tensor:
    if step > 0:
        return torch.ops.aten.slice.Tensor(x, axis, start, stop, step)
    if isinstance(start, int) and isinstance(stop, int) and start in (-1, 2**31 - 1, 2**63 - 1) and stop < -(2**30):
        return x.flip(axis)[(slice(None),) * (axis % x.dim()) + (slice(None, None, -step),)]
    size = x.shape[axis]
    start = start + size if start < 0 else torch.sym_min(start, size - 1)
    stop = torch.sym_max(stop + size, -1) if stop < 0 else stop
    return x.index_select(axis, torch.arange(start, stop, step, device=x.device))


@register("Constant")
def constant(call: Call) -> Any:
    """A constant written in the node."""
    if call.attr("value") is not None:
        return as_tensor(call.attr("value"))
    for name, dtype in (("value_int", torch.int64), ("value_ints", torch.int64)):
        if call.attr(name) is not None:
            return Known.of(call.attr(name), dtype)
    for name in ("value_float", "value_floats"):
        if call.attr(name) is not None:
            return Known.of(call.attr(name), torch.float32)
    raise call.unsupported("a constant that is neither a tensor nor numbers")


@register("ConstantOfShape")
def constant_of_shape(call: Call, sizes: Any) -> torch.Tensor:
    """The same value throughout."""
    value = call.attr("value")
    if value is None:
        return torch.zeros(numbers(sizes))
    array = value.numpy().reshape(-1)
    from onnx_ir.tensor_adapters import to_torch_dtype

    return torch.full(numbers(sizes), array[0].item(), dtype=to_torch_dtype(value.dtype))


@register("Range")
def arange(call: Call, start: Any, stop: Any, step: Any) -> torch.Tensor:
    """Equally spaced numbers."""
    return torch.arange(number(start), number(stop), number(step), dtype=dtype_of(start))


@register("EyeLike")
def eye_like(call: Call, x: Any) -> torch.Tensor:
    """Ones on a diagonal."""
    x, k = tensor(x), call.attr("k", 0)
    dtype = call.dtype("dtype", x.dtype)
    rows, columns = torch.arange(x.shape[0]), torch.arange(x.shape[1])
    return (rows[:, None] + k == columns).to(dtype)


@register("Trilu")
def trilu(call: Call, x: Any, diagonal: Any = None) -> torch.Tensor:
    """The upper or lower triangle."""
    k = 0 if diagonal is None else number(diagonal)
    return (torch.triu if call.attr("upper", 1) else torch.tril)(tensor(x), k)


@register("DepthToSpace")
def depth_to_space(call: Call, x: Any) -> torch.Tensor:
    """Channels moved into blocks of pixels."""
    x, block = tensor(x), call.attr("blocksize")
    if call.attr("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, block)
    n, c, h, w = x.shape
    parts = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // block**2, h * block, w * block)


@register("SpaceToDepth")
def space_to_depth(call: Call, x: Any) -> torch.Tensor:
    """Blocks of pixels moved into channels."""
    x, block = tensor(x), call.attr("blocksize")
    n, c, h, w = x.shape
    order = (0, 1, 3, 5, 2, 4) if call.attr("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    parts = x.reshape(n, c, h // block, block, w // block, block).permute(order)
    return parts.reshape(n, c * block**2, h // block, w // block)


@register("Pad")
def pad(call: Call, x: Any, pads: Any = None, value: Any = None, axes: Any = None) -> torch.Tensor:
    """Padding by a constant, by reflection or by the edge."""
    x, mode = tensor(x), call.attr("mode", "constant")
    amounts = numbers(pads) if pads is not None else call.attr("pads")
    chosen = numbers(axes) if axes is not None else list(range(x.dim()))
    width = {int(a) % x.dim(): (amounts[i], amounts[i + len(chosen)]) for i, a in enumerate(chosen)}
    flat = [n for axis in reversed(range(x.dim())) for n in width.get(axis, (0, 0))]
    while len(flat) > 2 and all(isinstance(n, int) and n == 0 for n in flat[-2:]):
        flat = flat[:-2]
    if mode == "constant":
        return F.pad(x, flat, value=number(value) if value is not None else call.attr("value", 0.0))
    return F.pad(x, flat, mode={"edge": "replicate", "reflect": "reflect", "wrap": "circular"}[mode])
