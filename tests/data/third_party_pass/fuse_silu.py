from dataclasses import dataclass

import torch

import graphwright as gw


class Silu(gw.Rule):
    """x * sigmoid(x)  ->  silu(x)"""

    def pattern(self, x):
        return gw.aten.mul(x, gw.aten.sigmoid(x))

    def rewrite(self, m, rw):
        return rw.aten.silu(m.x)


@gw.register_pass("fuse-silu")
@dataclass(frozen=True)
class FuseSilu(gw.Pass):
    """Write x * sigmoid(x) as one silu."""

    requires = frozenset({"functional"})

    def apply(self, program, rewriter):
        return gw.apply_rules([Silu], program, rewriter).misses


def test_fuse_silu():
    class Gate(torch.nn.Module):
        def forward(self, x):
            return torch.sigmoid(x) * x

    program = gw.capture(Gate(), (torch.randn(4, 3),))
    result = gw.Pipeline("canonicalize,fuse-silu").run(program, instruments=[gw.Numerics()])
    assert "silu(" in str(result.diff)
    gw.compare(program, result.program)
