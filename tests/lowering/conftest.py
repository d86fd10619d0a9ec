"""Fixtures of the lowering tests: the zoo of tiny models, each exported once per session."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch

from graphwright.ir.program import Program
from graphwright.ir.signature import Example

_DEFAULT = {"bert", "deberta-v2", "gpt2", "llama", "t5", "bart", "vit", "clip", "wav2vec2", "whisper"}


@cache
def _zoo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lowering_zoo", Path(__file__).with_name("zoo.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests that take `model_name` on every model of the zoo, with `attention` in each form; most by default."""
    if "model_name" not in metafunc.fixturenames:
        return
    marks = {name: () if name in _DEFAULT else (pytest.mark.slow,) for name in _zoo().CASES}
    if "attention" in metafunc.fixturenames:
        pairs = [(name, kind) for name, case in _zoo().CASES.items() for kind in case.attention]
        params = [pytest.param(*pair, marks=marks[pair[0]]) for pair in pairs]
        metafunc.parametrize(("model_name", "attention"), params)
    else:
        metafunc.parametrize("model_name", [pytest.param(name, marks=mark) for name, mark in marks.items()])


@cache
def _exported(name: str, attention: str) -> tuple[torch.nn.Module, Program]:
    model, inputs = _zoo().build(name, attention), _zoo().make_inputs(name)
    shapes = _zoo().dynamic(inputs)
    exported = torch.export.export(model, (), inputs, dynamic_shapes=shapes, strict=False)
    return model, Program.from_exported(exported, example=Example((), inputs), name=type(model).__name__)


@pytest.fixture
def zoo() -> ModuleType:
    return _zoo()


@pytest.fixture
def exported() -> Callable[[str, str], tuple[torch.nn.Module, Program]]:
    """`exported(name, attention) -> (model, program)`: as torch.export leaves it, made once."""
    return _exported
