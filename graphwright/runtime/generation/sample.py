"""Greedy decoding and sampling on static buffers, in place of transformers' loop.

Logits processors, stopping criteria and streamers are called in the same order with the same arguments as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphwright.runtime.generation.decoder import Decoder
from graphwright.runtime.generation.engine import Engine
from graphwright.runtime.generation.greedy import is_plain
from graphwright.runtime.generation.session import Session


class Sampler:
    """Chooses the next token of each sequence.

    Args:
        processors: transformers' logits processors.
        criteria: transformers' stopping criteria.
        settings: transformers' generation config.
        batch: Number of sequences.
        device: Of the tokens.

    Attributes:
        scores: Processed scores of each step, if they were asked for.
        logits: Raw logits of each step, if they were asked for.
    """

    def __init__(self, processors: Any, criteria: Any, settings: Any, batch: int, device: torch.device) -> None:
        self.processors, self.criteria = processors, criteria
        self.do_sample = settings.do_sample
        returns = settings.return_dict_in_generate
        self.scores: tuple[Tensor, ...] | None = () if returns and settings.output_scores else None
        self.logits: tuple[Tensor, ...] | None = () if returns and settings.output_logits else None
        ends = [criterion.eos_token_id for criterion in criteria if hasattr(criterion, "eos_token_id")]
        self.has_end = bool(ends)
        self.ends = torch.cat([end.to(device).view(-1) for end in ends]) if ends else None
        self.padding = None if settings._pad_token_tensor is None else settings._pad_token_tensor.to(device)
        self.unfinished = torch.ones(batch, dtype=torch.long, device=device)

    def next(self, ids: Tensor, logits: Tensor) -> Tensor:
        """Tokens that follow `ids` [batch, length], given logits [batch, vocabulary] in any dtype; [batch]."""
        raw = logits.to(copy=True, dtype=torch.float32, device=ids.device)
        scores = self.processors(ids, raw)
        if self.scores is not None:
            self.scores += (scores,)
        if self.logits is not None:
            self.logits += (raw,)
        if self.do_sample:
            tokens = torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1).squeeze(1)
        else:
            tokens = scores.argmax(dim=-1)
        if self.padding is not None and self.has_end:
            tokens = torch.where(self.unfinished.bool(), tokens, self.padding)
        return tokens

    def stops(self, ids: Tensor) -> bool:
        """Whether all sequences are finished."""
        self.unfinished = self.unfinished & ~self.criteria(ids, self.scores)
        return not bool(self.unfinished.any())


def sample(
    model: Any,
    engine: Engine,
    ids: Tensor,
    sampler: Sampler,
    settings: Any,
    streamer: Any,
    arguments: dict[str, Any],
) -> Any:
    """Generate until the criteria stop it; returns what transformers' loop would.

    Args:
        model: The optimised model.
        engine: Finds the graphs.
        ids: The prompt, [batch, length]; for an encoder-decoder that of the decoder.
        sampler: Chooses tokens.
        settings: transformers' generation config.
        streamer: Gets each token, or None.
        arguments: What `generate` keeps for `forward`.
    """
    is_pair = model.config.is_encoder_decoder
    first = model._prefill(ids, settings, arguments, is_first_iteration=not settings.is_assistant)
    arguments = model._update_model_kwargs_for_generation(first, arguments, is_encoder_decoder=is_pair)
    decoder = Decoder(model, engine, arguments, _limit(sampler.criteria))
    logits = first.logits[:, -1]
    del first
    try:
        ids = _loop(decoder, ids, logits, sampler, streamer)
    finally:
        cache = decoder.finish(settings.return_dict_in_generate)
    if streamer is not None:
        streamer.end()
    return _result(ids, sampler, settings, cache, is_pair)


def _loop(decoder: Decoder, ids: Tensor, logits: Tensor, sampler: Sampler, streamer: Any) -> Tensor:
    """Tokens until the criteria stop it, the prompt included."""
    while True:
        tokens = sampler.next(ids, logits)
        ids = torch.cat([ids, tokens[:, None]], dim=-1)
        stops = sampler.stops(ids)
        if streamer is not None:
            streamer.put(tokens.cpu())
        if stops:
            return ids
        if ids.is_cuda and decoder.is_steady and decoder.session is not None and is_plain(sampler):
            return _greedy(decoder.session, ids, sampler, streamer)
        logits = decoder.logits(ids)


def _greedy(session: Session, ids: Tensor, sampler: Sampler, streamer: Any) -> Tensor:
    """The rest of a greedy decoding without the host; returns all tokens."""
    limit = _limit(sampler.criteria)
    going = True
    while going and (limit is None or ids.shape[1] < limit):
        steps = limit - ids.shape[1] if limit is not None else 1 << 20
        for tokens in session.greedy(ids[:, -1:], sampler, steps, streamer is not None):
            if streamer is not None and tokens is not None:
                streamer.put(tokens)
        ids = torch.cat([ids, session.chosen()], dim=1)
        sampler.unfinished = sampler.unfinished & ~sampler.criteria(ids, None)
        going = bool(sampler.unfinished.any())
    return ids


def _limit(criteria: Sequence[Any]) -> int | None:
    """The length at which the generation ends at the latest."""
    lengths = [int(c.max_length) for c in criteria if getattr(c, "max_length", None) is not None]
    return min(lengths, default=None)


def _result(ids: Tensor, sampler: Sampler, settings: Any, cache: Any, is_pair: bool) -> Any:
    if not settings.return_dict_in_generate:
        return ids
    from transformers.generation.utils import GenerateDecoderOnlyOutput, GenerateEncoderDecoderOutput

    cls: Any = GenerateEncoderDecoderOutput if is_pair else GenerateDecoderOnlyOutput
    return cls(sequences=ids, scores=sampler.scores, logits=sampler.logits, past_key_values=cache)
