"""The `awq-scale` pass: inputs that carry more are scaled up in the weights, and down where they are made.

The scale of an input is a power of its root mean square; the power is the one for which rounded weights keep the output
best. A linear computes what it did before: it is the rounding afterwards that treats large inputs with more care.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from graphwright.ir.edit import Edit
from graphwright.ir.node import bound, is_call, shape_of, value_of
from graphwright.ir.program import Program
from graphwright.ir.rewriter import Rewriter
from graphwright.passes.quant.calibrate import Calibrator
from graphwright.passes.quant.gptq import Quantize
from graphwright.passes.quant.rounding import round_to_nearest
from graphwright.passes.quant.sites import Stage, find_sites, stages_of

aten = torch.ops.aten

_POWERS = tuple(i / 10 for i in range(1, 10))


@dataclass(frozen=True)
class AwqScale(Quantize):
    """Scale the inputs of linears before they are quantized, as AWQ does; the values of the program stay the same.

    Folds into norms and into the linear of a gated product; inputs that come from elsewhere are left as they are. The
    options are those with which linears will be quantized afterwards.
    """

    name = "awq-scale"
    approximate = False

    def apply(self, program: Program, rewriter: Rewriter) -> Iterable[Any] | None:
        """Choose a power per stage and fold the scales."""
        sites = find_sites(program, self.linear_options(), self.overrides, heads=self.heads)
        run = Calibrator(program, sites, self._data())
        chosen: dict[str, Tensor] = {}
        powers: dict[str, float] = {}
        for stage in run.stages:
            if _producer(stage) is None:
                run.skip(stage)
                continue
            hessian = run.measure(stage).hessian
            assert hessian is not None
            weights = [run.stream.weight(site.node) for site in stage.sites]
            power, scale = _search(stage, weights, hessian.float())
            powers[stage.sites[0].path] = power
            if power:
                chosen[stage.sites[0].path] = scale
        for path, scale in chosen.items():
            sites = find_sites(program, self.linear_options(), self.overrides, heads=self.heads)
            stage = next(stage for stage in stages_of(sites) if stage.sites[0].path == path)
            with rewriter.site(self.name, [stage.input, *_own(stage), *(site.node for site in stage.sites)]) as edit:
                _fold(edit, stage, scale)
        rewriter.notes["powers"] = powers
        return None


def _search(stage: Stage, weights: list[Tensor], hessian: Tensor) -> tuple[float, Tensor]:
    """The power with the least output error, 0 for none, and its scales `[inputs]`."""
    moment = hessian.diagonal().clamp(min=1e-12)
    best = (_error(stage, weights, hessian, torch.ones_like(moment)), 0.0, torch.ones_like(moment))
    for power in _POWERS:
        scale = moment ** (power / 2)
        scale = scale / (scale.max() * scale.min()).sqrt()
        best = min(best, (_error(stage, weights, hessian, scale), power, scale), key=lambda item: item[0])
    return best[1], best[2]


def _error(stage: Stage, weights: list[Tensor], hessian: Tensor, scale: Tensor) -> float:
    """Squared output error of rounded weights whose inputs are scaled."""
    total = 0.0
    for site, weight in zip(stage.sites, weights, strict=True):
        moment = hessian.diagonal() / scale.square()
        rounded = round_to_nearest(weight.float() * scale, site.options, moment).dequantize() / scale
        difference = weight.float() - rounded
        total += float(((difference @ hessian) * difference).sum())
    return total


def _producer(stage: Stage) -> Node | None:
    """The op with a parameter per input that makes the stage's input for the stage alone; None if there is none."""
    node = stage.input
    if set(node.users) != {site.node for site in stage.sites}:
        return None
    if is_call(node, aten.layer_norm, aten.rms_norm):
        return node if bound(node)["weight"] is not None and len(bound(node)["normalized_shape"]) == 1 else None
    if not is_call(node, aten.mul.Tensor):
        return None
    return next((arg for arg in node.args if isinstance(arg, Node) and _is_scalable(arg, node)), None)


def _is_scalable(value: Node, user: Node) -> bool:
    """Whether a factor is a parameter vector, or a linear that nothing else reads."""
    features = (shape_of(user) or ())[-1:]
    if value.op == "get_attr":
        return shape_of(value) == features
    return is_call(value, aten.linear) and set(value.users) == {user}


def _own(stage: Stage) -> list[Node]:
    """The linear that makes a factor of the stage's input, if that is what is scaled."""
    producer = _producer(stage)
    return [producer] if producer is not None and producer.op == "call_function" else []


def _fold(edit: Edit, stage: Stage, scale: Tensor) -> None:
    """Divide the producer's parameters by the scale and multiply the weights with it."""
    producer, source = _producer(stage), stage.input
    assert producer is not None
    edit.insert_before(producer if producer.op == "call_function" else source)
    path, weight = stage.sites[0].path, bound(stage.sites[0].node)["weight"]
    factor = edit.get_state(f"{path}.input_scale", scale.to(value_of(weight).device, value_of(weight).dtype))
    divided = edit.aten.div(producer, factor) if producer.op == "get_attr" else _divided(edit, producer, factor)
    edit.insert_before(source)
    if source is not producer:
        args = tuple(divided if arg is producer else arg for arg in source.args)
        divided = edit.copy(source, args, dict(source.kwargs))
    for site in stage.sites:
        edit.insert_before(site.node)
        inputs = bound(site.node)
        edit.replace(site.node, edit.aten.linear(divided, edit.aten.mul(inputs["weight"], factor), inputs["bias"]))


def _divided(edit: Edit, node: Node, factor: Node) -> Node:
    """A norm or linear whose result is divided, feature by feature, through its weight and bias."""
    inputs = bound(node)
    column = edit.aten.unsqueeze(factor, 1) if is_call(node, aten.linear) else factor
    inputs["weight"] = edit.aten.div(inputs["weight"], column)
    if inputs.get("bias") is not None:
        inputs["bias"] = edit.aten.div(inputs["bias"], factor)
    return edit.copy(node, tuple(inputs.values()), {})
