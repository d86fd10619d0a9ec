"""Names of passes: the built-in ones, those registered at run time, and those of other packages.

Another package offers a pass through the entry-point group `graphwright.passes`:

    [project.entry-points."graphwright.passes"]
    my-pass = "my_package.module:MyPass"
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from graphwright.ir.errors import PipelineError
from graphwright.passes.base import FunctionPass, Pass, RulePass
from graphwright.passes.spec import is_word

GROUP = "graphwright.passes"

BUILT_IN = {
    "awq-scale": "graphwright.passes.quant.awq:AwqScale",
    "canonicalize": "graphwright.passes.canonicalize.pass_:Canonicalize",
    "conv1d-to-linear": "graphwright.passes.linear.addmm:Conv1dToLinearPass",
    "div-to-mul": "graphwright.passes.linear.division:DivToMul",
    "encoder-fastpath": "graphwright.passes.encoder.fastpath:EncoderFastpath",
    "fold-batch-norm": "graphwright.passes.batch_norm.fold:FoldBatchNorm",
    "functionalize": "graphwright.passes.canonicalize.functionalize:Functionalize",
    "fuse-activation": "graphwright.passes.activation.fuse:FuseActivation",
    "fuse-attention": "graphwright.passes.attention.fuse:FuseAttention",
    "fuse-bias": "graphwright.passes.linear.bias:FuseBias",
    "fuse-norm": "graphwright.passes.norm.fuse:FuseNorm",
    "fuse-rotary": "graphwright.passes.rotary.fuse:FuseRotary",
    "merge-linears": "graphwright.passes.linear.merge:MergeLinears",
    "static-cache": "graphwright.passes.cache.static:StaticCache",
    "pack-gptq": "graphwright.pack_gptq:PackGptq",
    "quantize-gptq": "graphwright.passes.quant.gptq:QuantizeGptq",
    "quantize-inc": "graphwright.passes.quant.inc:QuantizeInc",
    "quantize-rtn": "graphwright.passes.quant.rtn:QuantizeRtn",
    "remove-padding": "graphwright.passes.padding.remove:RemovePadding",
    "unmerge-linears": "graphwright.passes.linear.unmerge:UnmergeLinears",
}

RESERVED = frozenset({"default", "repeat"})

NamedPass = type[Pass] | FunctionPass | RulePass

_registered: dict[str, NamedPass] = {}

T = TypeVar("T", bound=Callable[..., Any])


def register_pass(name: str, *, replace: bool = False) -> Callable[[T], T]:
    """Decorator that makes a Pass class, a pattern rule, or a function `(program, rewriter)`, known by name.

    Args:
        name: Name in pipeline text.
        replace: Allow a name that is taken.

    Raises:
        PipelineError: The name is taken by another pass, or cannot be written in a pipeline.
    """
    if not is_word(name):
        raise PipelineError(f"'{name}' cannot be the name of a pass", why="names are letters, digits and . + : / - _")

    def register(item: T) -> T:
        taken = _registered.get(name)
        is_other = taken is not None and _origin(taken) != _origin(item)
        if name in RESERVED or (not replace and (name in BUILT_IN or is_other)):
            raise PipelineError(f"a pass named '{name}' is registered already", remedies=["choose another name"])
        if isinstance(item, type) and issubclass(item, Pass):
            item.name = name
            _registered[name] = item
        else:
            _registered[name] = _as_pass(item, name)
        return item

    return register


def _as_pass(item: Any, name: str) -> FunctionPass | RulePass:
    """A pattern rule or function as a pass."""
    from graphwright.passes.patterns.rule import Rule

    if isinstance(item, Rule) or (isinstance(item, type) and issubclass(item, Rule)):
        return RulePass(rule=item, label=name)
    if not callable(item) or isinstance(item, type):
        raise PipelineError(f"{item!r} is neither a Pass class, nor a rule, nor a function")
    return FunctionPass(function=item, label=name)


def _origin(item: Any) -> tuple[str, str]:
    """Where a pass, rule or function was defined."""
    if isinstance(item, (FunctionPass, RulePass)):
        item = item.function if isinstance(item, FunctionPass) else item.rule
    return item.__module__, getattr(item, "__qualname__", type(item).__qualname__)


def pass_names() -> list[str]:
    """Names of all passes that can be used in a pipeline, sorted."""
    return sorted({*BUILT_IN, *_registered, *(point.name for point in _entry_points())})


def find_pass(name: str) -> NamedPass:
    """The pass class (or function pass) of a name, imported when first asked for.

    Raises:
        PipelineError: No such pass; names the nearest ones.
    """
    if name in _registered:
        return _registered[name]
    if name in BUILT_IN:
        return _load(BUILT_IN[name])
    for point in _entry_points():
        if point.name == name:
            return _from_entry_point(point)
    near = difflib.get_close_matches(name, pass_names(), n=3, cutoff=0.5)
    raise PipelineError(
        f"there is no pass named '{name}'",
        why=f"known are {', '.join(pass_names())}",
        remedies=[f"did you mean '{other}'?" for other in near],
    )


def _entry_points() -> list[EntryPoint]:
    return list(entry_points(group=GROUP))


def _from_entry_point(point: EntryPoint) -> NamedPass:
    try:
        item = point.load()
    except Exception as error:
        raise PipelineError(
            f"the pass '{point.name}' cannot be imported", at=point.value, why=f"{type(error).__name__}: {error}"
        ) from error
    if point.name not in _registered:
        register_pass(point.name)(item)
    return _registered[point.name]


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class PassInfo:
    """One line of a listing: name, summary, options."""

    name: str
    summary: str
    options: tuple[str, ...]


def describe(name: str) -> PassInfo:
    """Summary and options of a pass, for listings."""
    import dataclasses

    item = find_pass(name)
    if isinstance(item, (FunctionPass, RulePass)):
        return PassInfo(name, _summary(item.function if isinstance(item, FunctionPass) else item.rule), ())
    options = tuple(f"{f.name}={f.default}" for f in dataclasses.fields(item) if f.metadata.get("spec", True))
    return PassInfo(name, _summary(item), options)


def _summary(item: Any) -> str:
    return (item.__doc__ or "").strip().split("\n")[0]
