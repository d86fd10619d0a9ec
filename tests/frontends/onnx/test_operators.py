"""Every operator of the table against the reference results that the onnx package ships for its own operators."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx")

from onnx import numpy_helper  # noqa: E402
from onnx.backend.test.case.node import collect_testcases  # noqa: E402

from graphwright.frontends.onnx.module import OnnxModule  # noqa: E402
from graphwright.frontends.onnx.reader import OLDEST, read  # noqa: E402
from graphwright.frontends.onnx.table import TABLE  # noqa: E402
from graphwright.ir.errors import CaptureError, FileFormatError  # noqa: E402

OPERATORS = sorted({name for domain, name in TABLE if domain == ""})
SIZES = 64
"""Whole-number inputs of at most this many elements are sizes, axes and the like: they become constants."""


def load_cases() -> dict[str, list[Any]]:
    """The reference cases by operator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: dict[str, list[Any]] = {}
        for case in collect_testcases(None):
            nodes = case.model.graph.node
            if len(nodes) == 1 and nodes[0].domain == "":
                found.setdefault(nodes[0].op_type, []).append(case)
        return found


@pytest.fixture(scope="module")
def cases() -> dict[str, list[Any]]:
    return load_cases()


def with_constants(model: Any, arrays: list[Any]) -> tuple[Any, dict[str, torch.Tensor]]:
    """The model with its small whole-number inputs as constants, and the remaining inputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.opset_import[0].version = max(copy.opset_import[0].version, OLDEST)  # what has not changed since
    inputs = {}
    used = [value for value in copy.graph.input]
    del copy.graph.input[:]
    for value, array in zip(used, arrays, strict=True):
        array = np.asarray(array)
        if array.dtype.kind == "i" and array.size <= SIZES and array.ndim <= 1 and len(used) > 1:
            copy.graph.initializer.append(numpy_helper.from_array(array, value.name))
        else:
            copy.graph.input.append(value)
            inputs[value.name] = torch.from_numpy(array.copy())
    return copy, inputs


def is_plain(case: Any) -> bool:
    """Whether torch has the types of a case: no text, no sequences, no 4-bit or 8-bit floats."""
    values = [*case.data_sets[0][0], *case.data_sets[0][1]]
    plain = all(isinstance(part, (np.ndarray, np.generic)) and np.asarray(part).dtype.kind in "biuf" for part in values)
    return plain and "same_values" not in case.name  # torch.topk finds equal items in any order


def agrees(case: Any, tmp_path: Any) -> bool:
    """Whether the operator gives what the reference gives; False where it says that it does not understand."""
    arrays, expected = case.data_sets[0]
    model, inputs = with_constants(case.model, arrays)
    path = tmp_path / "case.onnx"
    path.write_bytes(model.SerializeToString())
    try:
        results = OnnxModule(read(path), path.name, {})(**inputs)
    except (CaptureError, FileFormatError):
        return False
    for value, want in zip(case.model.graph.output, expected, strict=True):
        have = results[value.name]
        torch.testing.assert_close(
            have, torch.from_numpy(np.array(want)).to(have.dtype), rtol=2e-3, atol=1e-4, equal_nan=True, msg=case.name
        )
    return True


@pytest.mark.parametrize("operator", OPERATORS)
def test_operator_gives_the_reference_results(operator: str, cases: dict[str, list[Any]], tmp_path: Any) -> None:
    mine = [case for case in cases.get(operator, []) if is_plain(case)]
    if not mine:
        pytest.skip("the onnx package has no case for it with types that torch has")
    assert any([agrees(case, tmp_path) for case in mine])
