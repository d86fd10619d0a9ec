"""Undo, over random pipelines: the same graph, and the same bits in the state."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from graphwright.ir.program import Program
from graphwright.ir.signature import Example
from graphwright.ir.snapshot import Snapshot, fingerprint
from graphwright.passes.pipeline import Pipeline
from graphwright.passes.registry import BUILT_IN

# These need calibration text or codes; quantized weights are new tensors, at another address in each run.
FREE = sorted(set(BUILT_IN) - {"quantize-gptq", "quantize-inc", "awq-scale", "quantize-rtn", "pack-gptq"})


class Model(nn.Module):
    """Something for most passes: projections, written-out attention, norm, GELU, batch norm, division."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.norm, self.batch_norm = nn.LayerNorm(8), nn.BatchNorm1d(8)
        self.conv = nn.Conv1d(8, 8, 1)

    def forward(self, x):
        q, k, v = (layer(x).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        mixed = torch.softmax(q @ k.transpose(-1, -2) / 2, -1) @ v
        y = self.out(mixed.transpose(1, 2).flatten(2)) + x
        y = y * 0.5 * (1 + torch.erf(y / 2**0.5))
        y.add_(1)
        return self.norm(self.batch_norm(self.conv(y.transpose(1, 2))).transpose(1, 2))


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8)
    exported = torch.export.export(Model().eval(), (x,))
    return Program.from_exported(exported, example=Example((x,)), name="Model")


def bits(program):
    return {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in program.tensors().items()}


def same_bits(a, b):
    return a.keys() == b.keys() and all(
        a[name][0] == b[name][0] and torch.equal(a[name][1].view(torch.uint8), b[name][1].view(torch.uint8))
        for name in a
        if a[name][1].dim()
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(FREE), min_size=1, max_size=4), st.data())
def test_undo_gives_back_graph_and_state(program, names, data):
    names = ["canonicalize", *names]
    stages, current = [program], program
    for name in names:
        current = Pipeline(name).run(current).program
        stages.append(current)
    fingerprints, states = list(map(fingerprint, stages)), list(map(bits, stages))
    result = Pipeline(",".join(names)).run(program)
    name = data.draw(st.sampled_from(names))
    last = len(names) - 1 - names[::-1].index(name)
    undone = result.undo(name)
    assert fingerprint(undone) == fingerprints[last]
    assert same_bits(bits(undone), states[last])
    assert fingerprint(result.original) == fingerprints[0]
    assert same_bits(bits(result.original), states[0])
    assert Snapshot.of(result.original).nodes == Snapshot.of(program).nodes
    assert fingerprint(result.program) == fingerprints[-1]
    torch.testing.assert_close(undone.run(*program.example.args), program.run(*program.example.args))
