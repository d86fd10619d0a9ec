"""From a module and example inputs to a Program, by torch.export."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from graphwright.frontends import axes as ax
from graphwright.frontends.answers import Answers, NoAnswer, Recorder, answering, refuse_random, settle
from graphwright.frontends.attempts import Attempt, attempts
from graphwright.frontends.cache import register_caches
from graphwright.frontends.failure import Failure, capture_error, reason
from graphwright.frontends.late_code import code_when_run
from graphwright.frontends.loops import AllItems, NoLoop, agree
from graphwright.frontends.moves import moves_skipped
from graphwright.frontends.naming import name_dims
from graphwright.frontends.repeated import Copies, repeats_copied
from graphwright.frontends.shim import relations_of, stand_in, strip_frames, untouched
from graphwright.ir.errors import GraphwrightError, InputError
from graphwright.ir.program import Program
from graphwright.ir.signature import Example

logger = logging.getLogger("graphwright")


def export_program(
    module: torch.nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic: Any = "auto",
    suggested: ax.Leaves | None = None,
    name: str | None = None,
    assume: bool = True,
    copied: Copies | None = None,
) -> Program:
    """Export `module` as called with `args` and `kwargs`; the module is left as it is.

    Tried in turn: non-strict; for a transformers mixture of experts that loops over the experts in use, non-strict
    with its batched form, which computes the same sum in another order; where the model loops over the items in use,
    over all items, see `graphwright.frontends.loops`; non-strict with deferred runtime assertions;
    where the model branches on values, the branches of the example, which the program then requires of its inputs;
    strict; and with `dynamic="auto"` also fewer dynamic dimensions, then none. Any change to what was asked for is
    logged with the reason.

    Args:
        module: Captured in the mode it is in; in train mode dropout stays active.
        args: Positional example arguments.
        kwargs: Keyword example arguments.
        dynamic: See `graphwright.frontends.axes.parse`. Dynamic dimensions of size 1 in the example are doubled:
            torch takes a size of 1 for a constant.
        suggested: What `"auto"` means for this call, one mapping for each leaf.
        name: Name of the program, by default the class of the module.
        assume: Whether branches on values may be those of the example; see `graphwright.frontends.answers`.
        copied: Counts the layers that were copied instead of traced, see `graphwright.frontends.repeated`; without it
            all are traced.

    Raises:
        CaptureError: All attempts failed; names the first, the line in the model's source, and what to try.
        InputError: `dynamic` does not fit the arguments, or the model fixes a dimension that must be dynamic.
    """
    name = name or type(module).__name__
    register_caches(module)
    names = argument_names(module, args, kwargs or {})
    leaves = ax.parameter_leaves(names, args, kwargs or {})
    axes = ax.parse(dynamic, leaves, suggested)
    example = _distinct(Example(args, dict(kwargs or {})), axes)
    exported, used = _export(module, names, example, list(attempts(module, axes, dynamic, assume)), name, copied)
    program = Program.from_exported(exported, example=example, name=name)
    program.training = module.training
    required = settle(program)
    if required:
        logger.warning("%s was captured for inputs where %s; it refuses others", name, ", ".join(required))
    strip_frames(program.graph)
    name_dims(program, [parameter for parameter, _ in leaves], used)
    return program


def argument_names(module: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """Names of the arguments of a call, positional ones as `forward` calls them.

    Raises:
        InputError: `forward` does not take this call.
    """
    signature = inspect.signature(module.forward)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise InputError(
            f"{type(module).__name__}.forward does not take these inputs",
            why=str(error),
            remedies=[f"its signature is {signature}"],
        ) from error
    names: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}_{i}" for i in range(len(args) - len(names))]
        elif parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            names.append(parameter.name)
    return [*names[: len(args)], *kwargs]


def _distinct(example: Example, axes: ax.Leaves) -> Example:
    """The example with dynamic dimensions of at least 2, and no tensor given twice."""
    leaves, spec = pytree.tree_flatten((example.args, example.kwargs))
    seen: set[int] = set()
    for i, (leaf, wanted) in enumerate(zip(leaves, axes, strict=True)):
        if isinstance(leaf, torch.Tensor):
            for dim in wanted:
                if leaves[i].shape[dim] == 1:
                    leaves[i] = torch.cat([leaves[i]] * 2, dim)
            if id(leaf) in seen and leaves[i] is leaf:
                leaves[i] = leaf.clone()
            seen.add(id(leaf))
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    return Example(args, kwargs)


def _export(
    module: torch.nn.Module,
    names: Sequence[str],
    example: Example,
    attempts: Sequence[Attempt],
    name: str,
    copied: Copies | None,
) -> tuple[ExportedProgram, ax.Leaves]:
    failures: list[Failure] = []
    for attempt in attempts:
        try:
            exported = _attempt_items(module, names, example, attempt, copied)
        except GraphwrightError:
            raise
        except Exception as error:
            failures.append((attempt.label, error))
            logger.info("capture of %s: attempt '%s' failed: %s", name, attempt.label, reason(error))
            if len(failures) == 1 and (eager := _eager_failure(module, example)) is not None:
                raise capture_error(name, failures, eager) from eager
            continue
        if attempt.axes is not attempts[0].axes or attempt.batched_experts:
            logger.warning("%s was captured with %s: %s", name, attempt.label, reason(failures[0][1]))
        return exported, attempt.axes
    raise capture_error(name, failures, None) from failures[0][1]


def _attempt_items(
    module: torch.nn.Module, names: Sequence[str], example: Example, attempt: Attempt, copied: Copies | None
) -> ExportedProgram:
    """The attempt; without the last item of loops where the model has nothing for it: it is never in use then."""
    try:
        return _attempt_copying(module, names, example, attempt, copied)
    except IndexError:
        if not attempt.all_items:
            raise
        return _attempt(module, names, example, replace(attempt, spare_items=1))


def _attempt_copying(
    module: torch.nn.Module, names: Sequence[str], example: Example, attempt: Attempt, copied: Copies | None
) -> ExportedProgram:
    """The attempt with layers copied; if that fails, with all of them traced."""
    if copied is not None and attempt.copies_layers:
        try:
            return _attempt(module, names, example, attempt, copied)
        except Exception as error:
            if not copied.layers:
                raise
            logger.info("all layers are traced, as the copied ones failed: %s", reason(error))
            copied.layers = 0
    return _attempt(module, names, example, attempt)


def _attempt(
    module: torch.nn.Module,
    names: Sequence[str],
    example: Example,
    attempt: Attempt,
    copied: Copies | None = None,
) -> ExportedProgram:
    quiet = contextlib.redirect_stderr(io.StringIO())  # torch prints the partial graph of a failed export
    answers = _answers(module, example) if attempt.answers else None
    loops = _loops(module, example, attempt.spare_items) if attempt.all_items else contextlib.nullcontext()
    with untouched(module), moves_skipped(), torch.enable_grad(), warnings.catch_warnings(), quiet:
        warnings.simplefilter("ignore")
        if attempt.batched_experts:
            module.set_experts_implementation("batched_mm")  # type: ignore[operator]
        args, kwargs = copies(example)
        shapes = torch.export.ShapesCollection()
        for leaf, wanted in zip(pytree.tree_leaves((args, kwargs)), attempt.axes, strict=True):
            if wanted:
                shapes[leaf] = dict.fromkeys(wanted, torch.export.Dim.AUTO)
        shim = stand_in(module, names, relations_of(attempt.axes))
        repeats = contextlib.nullcontext() if copied is None else repeats_copied(module, copied)
        with loops, repeats, code_when_run(), attempt.results_computed():
            exported = torch.export.export(
                shim if answers is None else answering(shim, answers),
                args,
                kwargs,
                dynamic_shapes=shapes,  # type: ignore[arg-type]
                strict=attempt.strict,
                prefer_deferred_runtime_asserts_over_guards=attempt.deferred,
            )
    if answers is not None:
        _confirm(module, exported, example)
    if attempt.all_items:
        _compare(module, exported, example, attempt)
    return exported


def _loops(module: torch.nn.Module, example: Example, spare: int) -> AllItems:
    with AllItems(pretend=False) as counted:
        _results(module, module, example)
    if not counted.loops:
        raise NoLoop("the model has no loop over the items in use")
    return AllItems(spare=spare)


def _compare(module: torch.nn.Module, exported: ExportedProgram, example: Example, attempt: Attempt) -> None:
    """Compare on the example, and on the first of each dynamic dimension, where few items are in use."""
    for inputs in (example, _first(example, attempt.axes)):
        with AllItems(pretend=False, spare=attempt.spare_items) as counted:
            expected = _results(module, module, inputs)
        agree(expected, _results(module, exported.module(check_guards=False), inputs))
    if counted.full:
        raise NoLoop("no example leaves out an item in each loop, so that its absence cannot be tried")


def _results(module: torch.nn.Module, run: torch.nn.Module, example: Example) -> list[Any]:
    args, kwargs = copies(example)
    with untouched(module), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.default_generator.manual_seed(0)
        return pytree.tree_leaves(run(*args, **kwargs))


def _first(example: Example, axes: ax.Leaves) -> Example:
    """The example cut down to size 1 in each dynamic dimension."""
    leaves, spec = pytree.tree_flatten((example.args, example.kwargs))
    for i, wanted in enumerate(axes):
        for dim in wanted:
            leaves[i] = leaves[i].narrow(dim, 0, 1)
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    return Example(args, kwargs)


def _answers(module: torch.nn.Module, example: Example) -> Answers:
    args, kwargs = copies(example)
    with untouched(module), torch.no_grad(), warnings.catch_warnings(), Recorder() as recorder:
        warnings.simplefilter("ignore")
        module(*args, **kwargs)
    if not recorder.answers:
        raise NoAnswer("the model asks for no values where they could be answered")
    return recorder.answers


def _confirm(module: torch.nn.Module, exported: ExportedProgram, example: Example) -> None:
    """Run what was traced with answers on the example: it must meet its own requirements."""
    refuse_random(exported.graph)
    args, kwargs = copies(example)
    with untouched(module), torch.no_grad():
        try:
            exported.module(check_guards=False)(*args, **kwargs)
        except InputError as error:
            raise NoAnswer("the trace asks other questions than a run of the model") from error


def copies(example: Example) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments with their own containers and tensors: caches are changed by a call."""
    leaves, spec = pytree.tree_flatten((example.args, example.kwargs))
    return pytree.tree_unflatten(
        [leaf.detach().clone() if isinstance(leaf, torch.Tensor) else copy.copy(leaf) for leaf in leaves], spec
    )


def _eager_failure(module: torch.nn.Module, example: Example) -> Exception | None:
    args, kwargs = copies(example)
    with untouched(module), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module(*args, **kwargs)
        except Exception as error:
            return error
    return None
