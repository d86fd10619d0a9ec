"""The `static-cache` pass: which updates become in-place writes, and that the buffers are then written to."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphwright import Pipeline, capture
from graphwright.lowering.eager.target import EagerTarget

aten = torch.ops.aten


class Step(nn.Module):
    """Writes a row into a buffer and reads the buffer."""

    def forward(self, buffer, slot, row):
        new = buffer.index_copy(1, slot, row)
        return new.sum(1), new


class ReadsTheOld(nn.Module):
    def forward(self, buffer, slot, row):
        return buffer.index_copy(1, slot, row), buffer * 2


class UpdatesAValue(nn.Module):
    def forward(self, buffer, slot, row):
        return ((buffer * 2).index_copy(1, slot, row),)


INPUTS = (torch.arange(12.0).view(2, 6), torch.tensor([3]), torch.tensor([[7.0], [8.0]]))


def targets(program):
    return {node.target for node in program.graph.nodes if node.op == "call_function"}


def test_the_buffer_itself_is_written_and_returned():
    program = capture(Step(), INPUTS, dynamic=None)
    result = Pipeline("canonicalize,static-cache").run(program)
    assert aten.index_copy_.default in targets(result.program)
    assert aten.index_copy.default not in targets(result.program)
    expected = Step()(*INPUTS)
    inputs = [tensor.clone() for tensor in INPUTS]
    total, new = EagerTarget().emit(result.program).flat(inputs)
    torch.testing.assert_close((total, new), expected)
    assert new.data_ptr() == inputs[0].data_ptr()
    torch.testing.assert_close(inputs[0], expected[1])


@pytest.mark.parametrize(("model", "reason"), [(ReadsTheOld(), "as it was"), (UpdatesAValue(), "not an input")])
def test_what_must_stay_a_copy_says_why(model, reason):
    program = capture(model, INPUTS, dynamic=None)
    result = Pipeline("canonicalize,static-cache").run(program)
    assert aten.index_copy_.default not in targets(result.program)
    assert any(reason in str(miss) for miss in result.misses)
