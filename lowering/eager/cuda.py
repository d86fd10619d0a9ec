"""A program on a GPU, for inference: recorded as CUDA graphs, since launching its kernels can take longer than they do.

Batches of packed tokens are recorded for each number of tokens, rounded up; that number is all that is read back.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from graphwright.ir.program import Program
from graphwright.ir.views import is_view
from graphwright.lowering.eager.flat import weight_function
from graphwright.lowering.eager.folding import FoldedFunction, FoldMode, weight_expressions
from graphwright.lowering.eager.kernels.opaque import opaque
from graphwright.lowering.eager.packed_body import Body
from graphwright.lowering.eager.replay import Batch, Replay
from graphwright.lowering.eager.watch import WeightPlaces

logger = logging.getLogger("graphwright")
CompileMode = Literal["auto", "never", "graphs", "inductor"]
Flat = Callable[[Sequence[Tensor]], tuple[Any, ...]]

_TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 1.5e-1}  # of the largest element: both sides round at every op
_MAX_GRAPHS = 64
_MAX_SIZES = 4096
_SHARE = 8  # `auto` keeps no more than an eighth of the GPU's memory for recordings


class CudaFunction:
    """A flat function on a GPU, for inference.

    The plain function serves a call of new sizes, the second one like it is compared with it, and the third is
    recorded and compared again. If it cannot be recorded or computes something else, the plain function serves from
    then on, with one logged sentence. Calls that record gradients, or whose tensors are elsewhere, go to the plain
    function as well. All recordings share their memory.

    Args:
        program: The program.
        plain: The function that launches kernels one by one.
        mode: `graphs` records PyTorch's own kernels and ours, which takes well under a second; `auto` does so as long
            as the recordings take little of the GPU's memory; `inductor` compiles the function first, which takes tens
            of seconds once.
        fold: Which expressions of weights are kept.
    """

    def __init__(self, program: Program, plain: FoldedFunction, mode: CompileMode, fold: FoldMode = "all") -> None:
        self.plain, self.mode = plain, mode
        expressions = weight_expressions(program, fold)
        self._weights = weight_function(program, expressions)
        self._body = Body(program, expressions)
        self._function: Flat | None = None
        self._graphs: OrderedDict[Any, tuple[Batch, Replay] | None] = OrderedDict()
        self._batches: WeakValueDictionary[Any, Batch] = WeakValueDictionary()
        self._met: set[Any] = set()
        self._seen: set[Any] = set()
        self._folded: Sequence[Tensor] = ()
        read = [*self._body.function.weights, *self._weights.weights]
        self._places = WeightPlaces(read, () if all(map(is_view, expressions)) else self._weights.weights)
        self._failed = not self._body.is_static
        self._lock = threading.Lock()
        self._stream: Any = None
        self._raw_stream = 0
        self._pool: Any = None
        self._bytes, self._is_full = 0, False

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Any, ...]:
        """Run on the tensor inputs; returns the flat results."""
        if not self._serves(inputs):
            return self.plain(inputs)
        sizes = _sizes(inputs)
        with self._lock:
            self._follow()
            if sizes in self._seen:
                return self._serve(inputs, sizes)
            if sizes in self._met:
                return self._learn(inputs, sizes)
        self._meet(sizes)
        return self.plain(inputs)

    def ahead(self, inputs: Sequence[Tensor]) -> tuple[Any, ...] | None:
        """The flat results of a call that is recorded, None for any other; nothing but the results remains of it."""
        batch = self._batches.get(sizes := _sizes(inputs))
        if batch is None or not self._serves(inputs):
            return None
        with self._lock:
            self._follow()
            batch.load(inputs)
            if self._places.moved():  # what a recording would read may be gone
                return None
            found = self._graphs.get((sizes, batch.size()))
            results = None if found is None else self._body.finish(found[1](), copy=True)
            return None if self._places.written() else results

    def _serves(self, inputs: Sequence[Tensor]) -> bool:
        """Whether recordings may serve a call."""
        device = torch.cuda.current_device()
        return not (
            self._failed
            or torch.is_grad_enabled()
            or any([tensor.get_device() != device for tensor in inputs])
            or torch._C._is_any_autocast_enabled()
            or torch.cuda.is_current_stream_capturing()
        )

    def _follow(self) -> None:
        """Let the current stream wait for the one that used the recordings before."""
        raw = torch._C._cuda_getCurrentRawStream(torch.cuda.current_device())
        if self._stream is None or raw != self._raw_stream:
            stream = torch.cuda.current_stream()
            if self._stream is not None:
                stream.wait_stream(self._stream)
            self._stream, self._raw_stream = stream, raw

    def _meet(self, sizes: Any) -> None:
        """Remember sizes; a cache that grows comes with other ones at every call."""
        if len(self._met) >= _MAX_SIZES:
            self._met.clear()
        self._met.add(sizes)

    def _learn(self, inputs: Sequence[Tensor], sizes: Any) -> tuple[Any, ...]:
        expected = self.plain(inputs)
        try:
            _compare(expected, self._serve(inputs, sizes))
            self._seen.add(sizes)
        except Exception as error:
            self._fail(error)
        return expected

    def _fail(self, error: Exception) -> None:
        self._failed = True
        self._graphs.clear()
        logger.warning("The program runs without CUDA graphs: %s: %s", type(error).__name__, str(error)[:300])

    def _serve(self, inputs: Sequence[Tensor], sizes: Any) -> tuple[Any, ...]:
        rest = [*self._body.function.weights, *self._current()]
        batch = self._batches.get(sizes)
        if batch is not None:
            batch.load(inputs)
        key = (sizes, self._body.size(inputs) if batch is None else batch.size())
        found = self._graphs.get(key)
        if found is not None:
            self._graphs.move_to_end(key)
            return self._body.finish(found[1](), copy=True)
        results = self._body.finish(self._launch(inputs, rest, key[1]), copy=False)
        if key not in self._graphs:
            self._graphs[key] = None
        elif sizes in self._seen and not self._is_full:
            self._record(inputs, rest, key, results)
        return results

    def _launch(self, inputs: Sequence[Tensor], rest: Sequence[Tensor], size: int) -> tuple[Any, ...]:
        function = self._function or self._compile()
        return function([*inputs, *rest, *self._body.plan(inputs, size)])

    def _record(self, inputs: Sequence[Tensor], rest: Sequence[Tensor], key: Any, expected: Sequence[Any]) -> None:
        """Record a call; keep the recording if it computes the same and does not take too much memory."""
        while len(self._graphs) >= _MAX_GRAPHS:
            self._graphs.popitem(last=False)
        try:
            before = _reserved()
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            batch = self._batches.get(key[0]) or Batch(inputs, self._body, self._pool)
            replay = Replay(lambda own: self._launch(own, rest, key[1]), batch.inputs, self._pool)
            _compare(expected, self._body.finish(replay(), copy=True))
        except Exception as error:
            self._fail(error)
            return
        self._bytes += max(_reserved() - before, 0)
        total = torch.cuda.get_device_properties(inputs[0].device).total_memory
        if self.mode == "auto" and self._bytes > total // _SHARE:
            self._is_full = True
        else:
            self._graphs[key], self._batches[key[0]] = (batch, replay), batch

    def _compile(self) -> Flat:
        module = self._body.function.module
        forward = module.forward
        if self.mode == "inductor":
            forward = torch.compile(opaque(module), dynamic=None if self._body.has_plan else False)

        def function(arguments: Sequence[Tensor]) -> tuple[Any, ...]:
            if self.mode == "inductor" and self._body.has_plan:
                for tensor in arguments[-self._body.plan_size :]:  # one compilation serves any number of tokens
                    torch._dynamo.maybe_mark_dynamic(tensor, 0)
            return forward(*arguments)

        self._function = function
        return function

    def _current(self) -> Sequence[Tensor]:
        """Values of the weight expressions; where a weight has changed, they and all graphs are made anew."""
        if self._places.changed():
            self._graphs.clear()
            with torch.inference_mode(False), torch.no_grad():
                self._folded = self._weights(())
        return self._folded


def _sizes(inputs: Sequence[Tensor]) -> Any:
    return tuple((tensor.shape, tensor.dtype) for tensor in inputs)


def only_gpu(program: Program) -> int | None:
    """Index of the GPU that all matrices of a program are on; None where there is no such one."""
    devices = {value.device for value in program.tensors().values() if value.is_floating_point() and value.dim() > 1}
    device = devices.pop() if len(devices) == 1 else None
    return (device.index or 0) if device is not None and device.type == "cuda" else None


def _reserved() -> int:
    """Bytes that the allocator holds for what is in use."""
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved()


def _compare(expected: Sequence[Any], actual: Sequence[Any]) -> None:
    for i, (want, have) in enumerate(zip(expected, actual, strict=True)):
        if not isinstance(want, Tensor) or not want.is_floating_point() or not want.numel():
            continue
        difference = float((want.float() - have.float()).abs().max())
        allowed = _TOLERANCE.get(want.dtype, 1e-3) * float(want.float().abs().max())
        if not difference <= allowed:
            raise ValueError(f"result {i} differs by {difference:.3g}, {allowed:.3g} is allowed")
