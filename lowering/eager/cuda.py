"""A program on a GPU, for inference: recorded as CUDA graphs, since launching its kernels can take longer than they do.

What depends on the values of the inputs (the plan of a packed batch) runs first, by itself. The rest is recorded for
each number of tokens, rounded up so that batches with nearly as many tokens share a graph.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Literal

import torch
from torch import Tensor
from torch.fx import Node

from graphwright.ir.node import is_call
from graphwright.ir.program import Program
from graphwright.ir.varlen import MAX_COPIES
from graphwright.lowering.eager.flat import flat_function, weight_function
from graphwright.lowering.eager.folding import FoldedFunction, weight_expressions

logger = logging.getLogger("graphwright")
CompileMode = Literal["never", "graphs", "inductor"]
Flat = Callable[[Sequence[Tensor]], tuple[Any, ...]]
_version = attrgetter("_version")

_HALF = (torch.float16, torch.bfloat16)
_TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 1.5e-1}  # of the largest element: both sides round at every op
_MAX_GRAPHS = 16


class CudaFunction:
    """A flat function on a GPU, for inference.

    The first call with inputs of new sizes is compared with the uncompiled function; if it cannot be recorded or
    computes something else, the uncompiled function serves from then on, with one logged sentence. Calls that record
    gradients, or whose tensors are elsewhere, go to the uncompiled function as well.

    Args:
        program: The program.
        plain: The uncompiled function.
        mode: `graphs` records PyTorch's own kernels, which takes well under a second; `inductor` compiles the function
            first, which fuses what lies between the products and takes tens of seconds once.
    """

    def __init__(self, program: Program, plain: FoldedFunction, mode: CompileMode) -> None:
        self.plain, self.mode = plain, mode
        self._plan = _plan_of(program)
        expressions = weight_expressions(program, "all")
        self._prelude = flat_function(program, results=self._plan) if self._plan else None
        self._weights = weight_function(program, expressions)
        self._body = flat_function(program, [*expressions, *self._plan])
        self._function: Flat | None = None
        self._graphs: OrderedDict[Any, Replay] = OrderedDict()
        self._seen: set[Any] = set()
        self._folded: Sequence[Tensor] = ()
        self._all_weights = (*self._body.weights, *self._weights.weights)
        self._token: Any = None
        self._failed = len(self._plan) not in (0, 4)

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Any, ...]:
        """Run on the tensor inputs; returns the flat results."""
        if self._failed or torch.is_grad_enabled() or not all(tensor.is_cuda for tensor in inputs):
            return self.plain(inputs)
        if torch._C._is_any_autocast_enabled() or torch.cuda.is_current_stream_capturing():
            return self.plain(inputs)
        sizes = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        return self._serve(inputs, sizes) if sizes in self._seen else self._learn(inputs, sizes)

    def _learn(self, inputs: Sequence[Tensor], sizes: Any) -> tuple[Any, ...]:
        expected = self.plain(inputs)
        try:
            _compare(expected, self._serve(inputs, sizes))
            self._seen.add(sizes)
        except Exception as error:
            self._failed = True
            logger.warning("The program runs without CUDA graphs: %s: %s", type(error).__name__, str(error)[:300])
        return expected

    def _serve(self, inputs: Sequence[Tensor], sizes: Any) -> tuple[Any, ...]:
        rest = [*self._body.weights, *self._current()]
        body = self._function or self._compile()
        plan: Sequence[torch.Tensor] = self._prelude(inputs) if self._prelude is not None else ()
        if plan:
            plan = rounded(plan, inputs[0].numel())
        if plan and (plan[0].numel() != plan[2].numel() or not plan[0].numel()):  # the number of keys varies, too
            return body([*inputs, *rest, *plan])
        key = (sizes, plan[0].numel() if plan else 0)
        replay = self._graphs.get(key)
        if replay is None:
            while len(self._graphs) >= _MAX_GRAPHS:
                self._graphs.popitem(last=False)
            count = len(inputs)
            replay = Replay(lambda own: body([*own[:count], *rest, *own[count:]]), [*inputs, *plan])
            self._graphs[key] = replay
        self._graphs.move_to_end(key)
        return replay([*inputs, *plan])

    def _compile(self) -> Flat:
        forward = self._body.module.forward
        if self.mode == "inductor":
            forward = torch.compile(forward, dynamic=None if self._plan else False)

        def function(arguments: Sequence[Tensor]) -> tuple[Any, ...]:
            tokens = arguments[-4:-1:2] if self._plan and self.mode == "inductor" else ()
            for places in tokens:  # one compilation serves any number of tokens
                torch._dynamo.maybe_mark_dynamic(places, 0)
            return forward(*arguments)

        self._function = function
        return function

    def _current(self) -> Sequence[Tensor]:
        """Values of the weight expressions; where a weight has changed, they and all graphs are made anew."""
        token = list(map(_version, self._all_weights)), list(map(Tensor.data_ptr, self._all_weights))
        if token != self._token:
            self._token = token
            self._graphs.clear()
            with torch.inference_mode(False), torch.no_grad():
                self._folded = self._weights(())
        return self._folded


class Replay:
    """One call, recorded as a CUDA graph; the results of each replay are new tensors.

    Args:
        function: What to record; it must read nothing back from the GPU.
        inputs: Inputs of the sizes to record for.
    """

    def __init__(self, function: Flat, inputs: Sequence[Tensor]) -> None:
        self.inputs = [tensor.clone() for tensor in inputs]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # libraries set themselves up at the first call
                function(self.inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.results = function(self.inputs)

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Any, ...]:
        """Replay on other inputs of the same sizes and types."""
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.graph.replay()
        return tuple(value.clone() if isinstance(value, Tensor) else value for value in self.results)


def rounded(plan: Sequence[Tensor], size: int) -> Sequence[Tensor]:
    """The plan with its number of tokens rounded up, by computing the last token several times.

    The copies are further queries of the last token's row, so they get the values that it gets. A plan in which padding
    is computed stays as it is.

    Args:
        plan: `tokens`, `offsets`, `keys`, `key_offsets`.
        size: Number of positions of the batch.
    """
    tokens, offsets, keys, key_offsets = plan
    count = tokens.numel()
    step = min(max(size // 32, 8), MAX_COPIES)
    more = min(-count % step, size - count)
    if keys.numel() != count or not more or not count:
        return plan
    tokens = torch.cat([tokens, tokens[-1:].expand(more)])
    offsets = torch.where(offsets == count, offsets + more, offsets)
    return tokens, offsets, torch.arange(count + more, device=tokens.device), key_offsets


def compiles(program: Program) -> bool:
    """Whether a program is worth recording: its weights are half precision on a GPU."""
    weights = [value for value in program.tensors().values() if value.is_floating_point() and value.dim() > 1]
    return bool(weights) and all(weight.is_cuda and weight.dtype in _HALF for weight in weights)


def _plan_of(program: Program) -> list[Node]:
    """The four parts of the plan of packed tokens; empty where the program has none."""
    token_plan = torch.ops.graphwright.token_plan
    parts = [node for node in program.graph.nodes if node.args and is_call(node.args[0], token_plan)]
    return sorted(parts, key=lambda node: node.args[1])  # type: ignore[arg-type, return-value]


def _compare(expected: Sequence[Any], actual: Sequence[Any]) -> None:
    for i, (want, have) in enumerate(zip(expected, actual, strict=True)):
        if not isinstance(want, Tensor) or not want.is_floating_point() or not want.numel():
            continue
        difference = float((want.float() - have.float()).abs().max())
        allowed = _TOLERANCE.get(want.dtype, 1e-3) * float(want.float().abs().max())
        if not difference <= allowed:
            raise ValueError(f"result {i} differs by {difference:.3g}, {allowed:.3g} is allowed")
