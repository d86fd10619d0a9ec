"""Linear layers on a CPU in the fastest of several forms: ATen's (MKL), oneDNN's, and oneDNN's on a reordered weight.

oneDNN can apply an activation, or add a residual, while the product is still in the cache. It reads the model's own
weight as it lies; a reordered copy is somewhat faster and takes the weight's memory once more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphwright.lowering.eager.speeds import user_speeds

Run = Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor | None], Tensor]

aten_linear = torch._C._nn.linear
onednn_linear = torch.ops.mkldnn._linear_pointwise.default
onednn_linear_binary = torch.ops.mkldnn._linear_pointwise.binary


@dataclass(frozen=True)
class Epilogue:
    """What follows a linear: nothing, an activation, or the addition of another tensor.

    Args:
        name: For the record of measured speeds.
        apply: The call on the linear's result (and the other tensor, if there is one).
        attribute: oneDNN's name for it.
        algorithm: oneDNN's variant of it.
    """

    name: str = "none"
    apply: Callable[..., Tensor] | None = None
    attribute: str = "none"
    algorithm: str = ""


class LinearCall:
    """One linear with its epilogue; which form runs is decided when an input of a new size class comes.

    A size class is the number of rows up to the next power of two: the best form for one token is another than that
    for a thousand. For each class the forms are timed once and the result kept; see `Speeds`.

    Args:
        backends: What to choose from: `mkl` (ATen), `onednn`, `packed` (oneDNN on the reordered weight).
        epilogue: What follows the linear.
    """

    __name__ = "linear_call"

    def __init__(self, backends: Sequence[str], epilogue: Epilogue) -> None:
        self.epilogue = epilogue
        self.forms = {name: form for name, form in _forms(epilogue).items() if name.rstrip("+") in backends}
        self._chosen: dict[int, Run] = {}

    def __call__(
        self, x: Tensor, weight: Tensor, packed: Tensor, bias: Tensor | None, other: Tensor | None = None
    ) -> Tensor:
        """`epilogue(x @ weight^T + bias, other)`.

        Args:
            x: [..., features in].
            weight: [features out, features in].
            packed: The same, reordered by oneDNN; any tensor where `packed` is not among the backends.
            bias: [features out].
            other: [..., features out], the residual.
        """
        rows = (x.numel() // weight.shape[1]).bit_length()
        run = self._chosen.get(rows)
        if run is None:
            run = self._chosen[rows] = self.forms[self._choose(rows, x, weight, packed, bias, other)]
        return run(x, weight, packed, bias, other)

    def _choose(
        self, rows: int, x: Tensor, weight: Tensor, packed: Tensor, bias: Tensor | None, other: Tensor | None
    ) -> str:
        if len(self.forms) == 1:
            return next(iter(self.forms))
        layout = "rows" if weight.layout != torch.strided or weight.is_contiguous() else "columns"
        sizes = f"2^{rows}x{weight.shape[1]}x{weight.shape[0]}"
        kind = f"linear {x.dtype} {sizes} {layout} +{self.epilogue.name} threads={torch.get_num_threads()}"
        calls = {name: lambda run=run: run(x, weight, packed, bias, other) for name, run in self.forms.items()}
        return user_speeds().fastest(kind, calls)


def _forms(epilogue: Epilogue) -> dict[str, Run]:
    """The forms of a linear by name; `+` marks those that apply the epilogue within oneDNN."""
    apply = epilogue.apply
    attribute, algorithm = epilogue.attribute, epilogue.algorithm

    def finish(result: Tensor, other: Tensor | None) -> Tensor:
        if apply is None:
            return result
        return apply(result) if other is None else apply(result, other)

    def alone(x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor | None) -> Tensor:
        return finish(onednn_linear(x, weight, _dense(bias), "none", [], ""), other)

    def fused(x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor | None) -> Tensor:
        if other is None:
            return onednn_linear(x, weight, _dense(bias), attribute, [], algorithm)
        return onednn_linear_binary(x, other, weight, _dense(bias), attribute)

    forms: dict[str, Run] = {
        "mkl": lambda x, w, p, b, o: finish(aten_linear(x, w, b), o),
        "onednn": lambda x, w, p, b, o: alone(x, w, b, o),
        "packed": lambda x, w, p, b, o: alone(x, p, b, o),
    }
    if apply is not None:
        forms["onednn+"] = lambda x, w, p, b, o: fused(x, w, b, o)
        forms["packed+"] = lambda x, w, p, b, o: fused(x, p, b, o)
    return forms


def _dense(bias: Tensor | None) -> Tensor | None:
    """The bias without gaps: oneDNN reads it as if it had none."""
    return bias if bias is None or bias.is_contiguous() else bias.contiguous()
