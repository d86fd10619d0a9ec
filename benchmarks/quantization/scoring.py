"""Scores of quantized weights: divergence from the float model, and perplexity."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

ROWS, LENGTH, BATCH = 64, 256, 8


class Scorer:
    """Runs a transformers decoder with other weights on held-out tokens.

    Args:
        model: The float model.
        tokens: Held-out tokens `[n]`, of which 64 rows of 256 at even distances are scored.
    """

    def __init__(self, model: torch.nn.Module, tokens: Tensor) -> None:
        self.model = model
        step = (len(tokens) - 1) // ROWS
        self.ids = torch.stack([tokens[i * step : i * step + LENGTH] for i in range(ROWS)])
        self.reference = [part.bfloat16() for part in self._log_probabilities()]
        self.perplexity = self.score({})[1]

    @torch.no_grad()
    def _log_probabilities(self) -> list[Tensor]:
        logits = (self.model(part, use_cache=False).logits for part in self.ids.split(BATCH))
        return [torch.log_softmax(part[:, :-1].float(), -1) for part in logits]

    def score(self, weights: Mapping[str, Tensor]) -> tuple[float, float]:
        """Mean divergence from the float model in nats, and perplexity, with some weights replaced."""
        kept = {path: self.model.get_submodule(path).weight.data for path in weights}
        for path, weight in weights.items():
            self.model.get_submodule(path).weight.data = weight
        found = self._log_probabilities()
        for path, weight in kept.items():
            self.model.get_submodule(path).weight.data = weight
        kl = nll = 0.0
        for wanted, given, ids in zip(self.reference, found, self.ids.split(BATCH), strict=True):
            kl += float((wanted.float().exp() * (wanted.float() - given)).sum())
            nll -= float(given.gather(-1, ids[:, 1:, None]).sum())
        count = ROWS * (LENGTH - 1)
        return kl / count, math.exp(nll / count)

    def line(self, weights: Mapping[str, Tensor]) -> str:
        """The score as two cells of a table."""
        kl, perplexity = self.score(weights)
        return f"{kl:.5f} | {perplexity:.3f}"
