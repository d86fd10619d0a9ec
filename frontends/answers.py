"""Branches on values: each question that the model asks of a tensor is answered as the example answers it.

`if mask.any()`, `int(padding)` and `x[:, :length]` make Python values of tensors, which torch.export has none for. They
are recorded in a run on the example, and given while the model is traced. Each answer that depends on the inputs
becomes a `graphwright::require` in the graph: inputs that answer otherwise are refused with an `InputError`.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.overrides import TorchFunctionMode

import graphwright.ir.library  # noqa: F401  registers graphwright::require
from graphwright.frontends.failure import is_user_file
from graphwright.ir.ops import is_pure, is_random
from graphwright.ir.program import Program

Answers = dict[tuple[str, int], list[Any]]

_QUESTIONS: dict[Any, Callable[[Any], Any]] = {
    torch.Tensor.__bool__: bool,
    torch.Tensor.__int__: int,
    torch.Tensor.__float__: float,
    torch.Tensor.__index__: int,
    torch.Tensor.item: torch.Tensor.item,
    torch.Tensor.tolist: torch.Tensor.tolist,
}
_INDEXING = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)
_SIZED = (
    torch.nn.functional.pad,
    torch.Tensor.view,
    torch.Tensor.reshape,
    torch.Tensor.expand,
    torch.Tensor.repeat,
)


class NoAnswer(Exception):
    """The traced model asks what the example did not, or what no run can repeat."""


class _Questions(TorchFunctionMode):
    """Hands each question about a tensor's values to `answer`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cast = _QUESTIONS.get(func)
        if cast is not None:
            return self.answer(args[0], cast)
        if func is torch.div and _divides_sizes(args, kwargs or {}):
            return args[0] // args[1]
        if func in _SIZED:
            args = (args[0], *self._mixed(args[1:]))
        convert = self._bounds if func in _INDEXING else self._list if func in _SIZED else self._mixed
        return func(*(convert(arg) for arg in args), **{name: convert(arg) for name, arg in (kwargs or {}).items()})

    def answer(self, tensor: torch.Tensor, cast: Callable[[Any], Any]) -> Any:
        """The Python value of a tensor."""
        raise AssertionError("a subclass answers")

    def _mixed(self, arg: Any) -> Any:
        """A list of numbers and integer tensors, such as a shape, with numbers in place of the tensors."""
        mixed = type(arg) in (tuple, list) and any(isinstance(item, (int, torch.SymInt)) for item in arg)
        return self._list(arg) if mixed else arg

    def _list(self, arg: Any) -> Any:
        return type(arg)(self._size(item) for item in arg) if type(arg) in (tuple, list) else arg

    def _bounds(self, index: Any) -> Any:
        """An index with numbers in place of integer tensors as the bounds of slices."""
        if isinstance(index, slice):
            return slice(*(self._size(bound) for bound in (index.start, index.stop, index.step)))
        return tuple(self._bounds(item) for item in index) if type(index) is tuple else index

    def _size(self, item: Any) -> Any:
        scalar = isinstance(item, torch.Tensor) and item.dim() == 0 and item.dtype in (torch.int32, torch.int64)
        return self.answer(item, int) if scalar else item


class Recorder(_Questions):
    """Records the answers of a run, in order, by the line of the model's source that asks."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: Answers = {}

    def answer(self, tensor: torch.Tensor, cast: Callable[[Any], Any]) -> Any:
        """The value, which is recorded."""
        value = cast(tensor)
        self.answers.setdefault(_asker(), []).append(value)
        return value


class Replayer(_Questions):
    """Gives recorded answers while the model is traced, and requires them of the inputs."""

    def __init__(self, answers: Answers) -> None:
        super().__init__()
        self._left = {asker: deque(values) for asker, values in answers.items()}

    def answer(self, tensor: torch.Tensor, cast: Callable[[Any], Any]) -> Any:
        """The next answer for this line.

        Raises:
            NoAnswer: There is none, or it is not a number.
        """
        asker = file, line = _asker()
        if not self._left.get(asker):
            raise NoAnswer(f"{file}:{line} asks for a value that the model did not ask for in a run of its own")
        value = self._left[asker].popleft()
        if not isinstance(value, (bool, int, float, list)) or value != value:
            raise NoAnswer(f"{file}:{line} asks for {value!r}, which no input can be compared with")
        same = tensor == (torch.tensor(value, dtype=tensor.dtype) if isinstance(value, list) else value)
        place = f"{file.rsplit('/', 1)[-1]}:{line}"
        torch.ops.graphwright.require.default(same.all() if same.dim() else same, str(value)[:200], place)
        return value


def _divides_sizes(args: Any, kwargs: Any) -> bool:
    """Whether `torch.div` is called on two sizes, where it rounds as `//` does but gives a tensor."""
    numbers = len(args) == 2 and all(isinstance(arg, (int, torch.SymInt)) for arg in args)
    return numbers and (kwargs == {"rounding_mode": "floor"} or _truncates(args, kwargs))


def _truncates(args: Any, kwargs: Any) -> bool:
    return kwargs == {"rounding_mode": "trunc"} and bool(args[0] >= 0) and bool(args[1] > 0)


def _asker() -> tuple[str, int]:
    """The innermost line of the model's source."""
    frame = sys._getframe(1)
    while frame.f_back is not None and not is_user_file(frame.f_code.co_filename):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def answering(stand_in: torch.nn.Module, answers: Answers) -> torch.nn.Module:
    """Let a stand-in's class answer from `answers`, anew in each call."""
    cls = type(stand_in)
    forward = cls.forward

    def answered(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        with Replayer(answers):
            return forward(self, *args, **kwargs)

    answered.__signature__ = forward.__signature__  # type: ignore[attr-defined]
    cls.forward = answered  # type: ignore[method-assign]
    return stand_in


def refuse_random(graph: Graph) -> None:
    """Check that what is required does not depend on random numbers.

    Raises:
        NoAnswer: It does: the next run would draw others.
    """
    for node in _requirements(graph):
        if any(is_random(source) for source in _sources(node)):
            raise NoAnswer(f"{node.args[2]} branches on random numbers")


def settle(program: Program) -> list[str]:
    """Drop what is required of buffers alone, which hold it already; the other requirements as text.

    Args:
        program: Ran on its example, so that all it requires was found to hold.
    """
    written = {arg for node in program.graph.nodes if not _only_reads(node) for arg in node.all_input_nodes}
    for node in _requirements(program.graph):
        sources = _sources(node)
        if all(_is_fixed(program, source) and source not in written for source in sources):
            _erase(program, [node])
    program.touch()
    return list(dict.fromkeys(f"{node.args[2]} finds {node.args[1]}" for node in _requirements(program.graph)))


def _requirements(graph: Graph) -> list[Node]:
    return list(graph.find_nodes(op="call_function", target=torch.ops.graphwright.require.default))


def _only_reads(node: Node) -> bool:
    return node.op != "call_function" or is_pure(node) or node.target is torch.ops.graphwright.require.default


def _sources(node: Node) -> set[Node]:
    """The nodes that a value is computed from, and that are not pure calls."""
    found: set[Node] = set()
    seen, waiting = {node}, list(node.all_input_nodes)
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        if current.op == "call_function" and is_pure(current):
            waiting += current.all_input_nodes
        else:
            found.add(current)
    return found


def _is_fixed(program: Program, node: Node) -> bool:
    """Whether a node reads a buffer or constant; parameters may be trained."""
    value = program.state.get(str(node.target)) if node.op == "get_attr" else None
    return isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter)


def _erase(program: Program, nodes: Iterable[Node]) -> None:
    """Erase nodes and what only they used."""
    for node in nodes:
        inputs = node.all_input_nodes
        program.graph.erase_node(node)
        _erase(program, [i for i in inputs if not i.users and (i.op == "get_attr" or _is_call(i))])
    used = {str(node.target) for node in program.graph.find_nodes(op="get_attr")}
    program.state = {name: value for name, value in program.state.items() if name in used}


def _is_call(node: Node) -> bool:
    return node.op == "call_function" and is_pure(node)
