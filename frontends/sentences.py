"""Sentence embeddings: a transformers model with the pooling and normalisation of a sentence-transformers folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from graphwright.ir.errors import FileFormatError, UnsupportedError

MODULES = "modules.json"
_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_lasttoken": "last",
}


class SentenceEmbedder(torch.nn.Module):
    """Token embeddings and the embedding of the whole sentence.

    Args:
        transformer: A transformers model that returns `last_hidden_state`.
        pooling: Ways to make one vector of the tokens that are not padding, whose results are concatenated: `mean`,
            `cls`, `max`, `mean_sqrt_len`, `last`.
        normalize: Whether embeddings have unit length.
    """

    main_input_name = "input_ids"

    def __init__(self, transformer: Any, pooling: tuple[str, ...] = ("mean",), normalize: bool = True) -> None:
        super().__init__()
        self.transformer, self.pooling, self.normalize = transformer, pooling, normalize
        self.config: Any = transformer.config
        self.device, self.dtype = transformer.device, transformer.dtype

    def get_input_embeddings(self) -> Any:
        """The token embeddings, which say how many tokens there are."""
        return self.transformer.get_input_embeddings()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """`token_embeddings` [batch, sequence, width] and `sentence_embedding` [batch, width of all poolings]."""
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        tokens = self.transformer(input_ids=input_ids, attention_mask=attention_mask, **segments).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
        vectors = torch.cat([_pooled(kind, tokens, mask) for kind in self.pooling], -1)
        if self.normalize:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        return {"token_embeddings": tokens, "sentence_embedding": vectors}


def _pooled(kind: str, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    if kind == "cls":
        return tokens[:, 0]
    if kind == "max":
        return tokens.masked_fill(mask == 0, torch.finfo(tokens.dtype).min).amax(1)
    if kind == "last":
        places = torch.arange(1, mask.shape[1] + 1, device=mask.device, dtype=mask.dtype)
        last = (mask.squeeze(-1) * places).argmax(1)
        return tokens.gather(1, last.view(-1, 1, 1).expand(-1, 1, tokens.shape[-1])).squeeze(1)
    count = mask.sum(1).clamp(min=1e-9)
    return (tokens * mask).sum(1) / (count.sqrt() if kind == "mean_sqrt_len" else count)


def load_sentence_embedder(folder: str | Path, transformer: Any) -> SentenceEmbedder:
    """The embedder that `modules.json` of a sentence-transformers folder describes, around its transformers model.

    Raises:
        FileFormatError: A file is missing or not well formed.
        UnsupportedError: There is a module other than pooling and normalisation.
    """
    folder = Path(folder)
    modules = [(str(entry["type"]).rpartition(".")[2], str(entry["path"])) for entry in _read(folder / MODULES)]
    pooling: tuple[str, ...] = ()
    for kind, path in modules:
        if kind == "Pooling":
            pooling = _pooling(_read(folder / Path(path).name / "config.json"), folder)
        elif kind not in ("Transformer", "Normalize"):
            raise UnsupportedError(f"sentence embeddings with a module '{kind}'", at=str(folder / MODULES))
    return SentenceEmbedder(transformer, pooling or ("mean",), any(kind == "Normalize" for kind, _ in modules)).eval()


def _pooling(config: dict[str, Any], folder: Path) -> tuple[str, ...]:
    found = tuple(kind for name, kind in _POOLINGS.items() if config.get(name))
    mode = config.get("pooling_mode")
    if not found and mode:
        found = (mode,) if isinstance(mode, str) else tuple(mode)
    unknown = [name for name in config if name.startswith("pooling_mode_") and config[name] and name not in _POOLINGS]
    unknown += [kind for kind in found if kind not in _POOLINGS.values()]
    if unknown or not found:
        raise UnsupportedError(f"the pooling {', '.join(unknown) or 'of no kind'}", at=str(folder))
    return found


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileFormatError("a file of the sentence-transformers folder cannot be read", at=str(path)) from error
