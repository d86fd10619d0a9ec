"""Graphwright: capture a transformer model once, rewrite its graph, verify it, lower it to every target.

    import graphwright as gw

    model = gw.optimize(model)                       # drop-in: same forward, same generate()
    program = gw.capture(model)
    result = gw.Pipeline("canonicalize,fuse-attention").run(program)
    print(result.diff)
    artifact = gw.target("onnx{opset=23}").lower(result.program)
    gw.compare(model, artifact)

Names are imported when they are first used, so that `import graphwright` costs little more than `import torch`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from graphwright.ir.containers import register_provider

if TYPE_CHECKING:
    from graphwright.explanation import Explanation, explain
    from graphwright.frontends.capture import capture
    from graphwright.frontends.gptq.load import load_gptq
    from graphwright.frontends.gptq.save import save_gptq
    from graphwright.ir.errors import (
        CaptureError,
        GraphwrightError,
        InputError,
        MismatchError,
        PassError,
        PipelineError,
        UnsupportedError,
        VerifyError,
    )
    from graphwright.ir.program import Dim, Program
    from graphwright.ir.rewriter import Rewriter
    from graphwright.ir.verify import verify
    from graphwright.lowering.artifact import Artifact
    from graphwright.lowering.bundle import Bundle
    from graphwright.lowering.compare import Comparison, compare
    from graphwright.lowering.registry import register_target, target, target_names
    from graphwright.lowering.target import Target
    from graphwright.passes.base import Pass
    from graphwright.passes.instruments import DumpDir, Instrument, Numerics, Timing, VerifyEach
    from graphwright.passes.patterns import Rule, any_of, apply_rules, aten, maybe, ops
    from graphwright.passes.pipeline import Pipeline, Repeat
    from graphwright.passes.registry import pass_names, register_pass
    from graphwright.passes.result import Result
    from graphwright.passes.trace import Trace
    from graphwright.passes.validate import Validate
    from graphwright.runtime.artifacts.export import Export, export
    from graphwright.runtime.artifacts.load import load_artifact
    from graphwright.runtime.optimize import optimize, restore
    from graphwright.tuning.search import Tuned, tune

__version__ = "0.1.0"

_MODULES = {
    "graphwright.explanation": ("Explanation", "explain"),
    "graphwright.frontends.capture": ("capture",),
    "graphwright.frontends.gptq.load": ("load_gptq",),
    "graphwright.frontends.gptq.save": ("save_gptq",),
    "graphwright.ir.errors": (
        "CaptureError", "GraphwrightError", "InputError", "MismatchError", "PassError", "PipelineError",
        "UnsupportedError", "VerifyError",
    ),
    "graphwright.ir.program": ("Dim", "Program"),
    "graphwright.ir.rewriter": ("Rewriter",),
    "graphwright.ir.verify": ("verify",),
    "graphwright.lowering.artifact": ("Artifact",),
    "graphwright.lowering.bundle": ("Bundle",),
    "graphwright.lowering.compare": ("Comparison", "compare"),
    "graphwright.lowering.registry": ("register_target", "target", "target_names"),
    "graphwright.lowering.target": ("Target",),
    "graphwright.passes.base": ("Pass",),
    "graphwright.passes.instruments": ("DumpDir", "Instrument", "Numerics", "Timing", "VerifyEach"),
    "graphwright.passes.patterns": ("Rule", "any_of", "apply_rules", "aten", "maybe", "ops"),
    "graphwright.passes.pipeline": ("Pipeline", "Repeat"),
    "graphwright.passes.registry": ("pass_names", "register_pass"),
    "graphwright.passes.result": ("Result",),
    "graphwright.passes.trace": ("Trace",),
    "graphwright.passes.validate": ("Validate",),
    "graphwright.runtime.artifacts.export": ("Export", "export"),
    "graphwright.runtime.artifacts.load": ("load_artifact",),
    "graphwright.runtime.optimize": ("optimize", "restore"),
    "graphwright.tuning.search": ("Tuned", "tune"),
}  # fmt: skip
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [*sorted(_HOME), "__version__"]


def _register_transformers(name: str) -> None:
    from graphwright.frontends.containers import register_containers

    register_containers([name])


register_provider("transformers.", _register_transformers)


def __getattr__(name: str) -> Any:
    if name == "onnx":
        return importlib.import_module("graphwright.onnx")
    if name not in _HOME:
        raise AttributeError(f"module 'graphwright' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
