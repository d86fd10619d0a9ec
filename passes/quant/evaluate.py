"""What quantization costs: divergence from the float model, and perplexity, on text that was held out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from graphwright.ir.errors import InputError
from graphwright.ir.node import shape_of
from graphwright.ir.program import Program
from graphwright.passes.quant.codes import QuantizedLinear
from graphwright.passes.quant.sites import site_path
from graphwright.passes.quant.stream import Stream


@dataclass(frozen=True)
class Quality:
    """Means over the tokens of held-out text.

    Args:
        kl: Kullback-Leibler divergence of the quantized model's next-token distribution from the float model's, nats.
        perplexity: Of the quantized model.
        float_perplexity: Of the float model.
        agreement: Share of tokens whose most likely successor is the same.
        tokens: How many were scored.
    """

    kl: float
    perplexity: float
    float_perplexity: float
    agreement: float
    tokens: int


@torch.no_grad()
def evaluate(
    program: Program,
    quantized: Mapping[str, QuantizedLinear],
    batches: Sequence[dict[str, Any]],
    device: str = "cpu",
    products: torch.dtype | None = None,
) -> Quality:
    """Compare a language model with itself quantized, batch by batch.

    Args:
        program: The float program, whose first result is `[batch, sequence, vocabulary]` logits.
        quantized: Module path -> codes of its linears.
        batches: Keyword arguments per batch, `input_ids` `[batch, sequence]` among them.
        device: Where to compute.
        products: Dtype of matrix products, None for the model's own.

    Raises:
        InputError: The program has no logits, or a batch has no `input_ids`.
    """
    logits = _logits(program)
    leaves = [program.flatten(**batch) for batch in batches]
    reference = Stream(program, [logits], leaves, device, products)
    candidate = reference.fork()
    for node in program.graph.nodes:
        path = site_path(node)
        if path is not None and path in quantized:
            candidate.weights[node] = quantized[path]
    sums = torch.zeros(5, dtype=torch.float64)
    for floats, values, batch in zip(reference.advance(logits), candidate.advance(logits), batches, strict=True):
        sums += _score(floats[logits], values[logits], _ids(batch).to(device), batch.get("attention_mask"))
    kl, nll, float_nll, same, count = sums.tolist()
    return Quality(kl / count, math.exp(nll / count), math.exp(float_nll / count), same / count, int(count))


def _logits(program: Program) -> Node:
    logits = program.results[0]
    if not isinstance(logits, Node) or len(shape_of(logits) or ()) != 3:
        raise InputError(
            "only language models can be scored", why="the first result is no [batch, sequence, vocabulary]"
        )
    return logits


def _ids(batch: Mapping[str, Any]) -> Tensor:
    if "input_ids" not in batch:
        raise InputError("held-out batches need `input_ids`", why=f"there are {', '.join(batch)}")
    return batch["input_ids"]


def _score(reference: Tensor, logits: Tensor, ids: Tensor, mask: Tensor | None) -> Tensor:
    """Sums over tokens of divergence, both negative log-likelihoods, agreement, and one."""
    wanted, given = (torch.log_softmax(values[:, :-1].float(), -1) for values in (reference, logits))
    kl = (wanted.exp() * (wanted - given)).sum(-1)
    likelihood, float_likelihood = (-values.gather(-1, ids[:, 1:, None])[..., 0] for values in (given, wanted))
    same = (wanted.argmax(-1) == given.argmax(-1)).float()
    keep = torch.ones_like(kl) if mask is None else (mask[:, 1:] * mask[:, :-1]).to(kl)
    parts = (kl, likelihood, float_likelihood, same, torch.ones_like(kl))
    return torch.stack([(part * keep).sum() for part in parts]).double().cpu()
