"""Curvature of the predictions in the outputs of linears: which errors of outputs matter, and which cancel.

One pass backwards for each batch, from labels that are drawn from the model's own predictions: second moments of the
gradients at a linear's output are the output's part of the Fisher information as K-FAC factorizes it (Martens and
Grosse 2015, https://arxiv.org/abs/1503.05671), and that is the Hessian of the divergence from the float model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from graphwright.ir.errors import PassError
from graphwright.ir.node import shape_of, value_of
from graphwright.ir.program import Program
from graphwright.passes.quant.moments import add_product
from graphwright.passes.quant.sites import Site
from graphwright.passes.quant.stream import Stream, Values


class Tape(Stream):
    """A stream that remembers how values came about, and sums gradients at the outputs of linears.

    Args:
        program: The float program; its first result is logits `[..., classes]`.
        sites: The linears.
        batches: Flat leaves per batch.
        device: Where to compute; the values of one batch, all layers of them, must fit there.
        products: Dtype in which linears multiply.
        seeds: By batch, what its labels are drawn with.

    Attributes:
        sums: By path, float64 `[outputs, outputs]`.
    """

    def __init__(
        self,
        program: Program,
        sites: Sequence[Site],
        batches: Sequence[Sequence[Any]],
        device: torch.device | str,
        products: torch.dtype | None,
        seeds: Sequence[int],
    ) -> None:
        self.result, self.seeds = logits_of(program), seeds
        super().__init__(program, [self.result], batches, device, products)
        self.paths = {site.node: site.path for site in sites}
        self.sums: dict[str, Tensor] = {}

    @torch.enable_grad()
    def run(self, masks: Sequence[Tensor | None]) -> dict[str, Tensor]:
        """All batches; tokens that a mask `[batch, sequence]` leaves out make no predictions."""
        for values, mask, seed in zip(self.advance(self.result), masks, self.seeds, strict=True):
            logits = values[self.result]
            torch.autograd.backward(logits, _gradient(logits.detach(), mask, seed))
            values[self.result] = logits.detach()
        return self.sums

    def _linear(self, node: Node, read: Callable[[Node], Any], constants: Values) -> Tensor:
        result = super()._linear(node, read, constants)
        if node in self.paths:
            result = result if result.requires_grad else result.requires_grad_()
            result.register_hook(lambda gradient: self._add(self.paths[node], gradient))
        return result

    def _add(self, path: str, gradient: Tensor) -> None:
        columns = gradient.detach().flatten(0, -2).float().T
        self.sums[path] = add_product(self.sums.get(path), columns, columns)


def logits_of(program: Program) -> Node:
    """The first result of a program.

    Raises:
        PassError: It is no floating tensor of two dimensions or more.
    """
    result = program.results[0]
    if not isinstance(result, Node) or len(shape_of(result) or ()) < 2 or not value_of(result).is_floating_point():
        raise PassError(
            "the curvature of a program's predictions is not known",
            why="its first result is no [..., classes]",
            remedies=["quantize with curvature=False"],
        )
    return result


def _gradient(logits: Tensor, mask: Tensor | None, seed: int) -> Tensor:
    """Of the negative log-likelihood of labels that are drawn from the predictions."""
    likely = logits.float().softmax(-1)
    generator = torch.Generator(likely.device).manual_seed(seed)
    drawn = torch.multinomial(likely.flatten(0, -2), 1, generator=generator)
    gradient = likely.flatten(0, -2).scatter_add_(1, drawn, likely.new_full(drawn.shape, -1.0))
    gradient = gradient.view(likely.shape)
    if mask is not None and mask.shape == gradient.shape[:-1]:
        gradient = gradient * mask[..., None]
    return gradient.to(logits.dtype)
