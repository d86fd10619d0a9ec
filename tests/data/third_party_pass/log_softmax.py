from dataclasses import dataclass

import torch

import graphwright as gw


class LogOfSoftmax(gw.Rule):
    """log(softmax(x))  ->  log_softmax(x), which does not overflow"""

    def pattern(self, x, dim):
        return gw.aten.log(gw.aten.softmax(x, dim))

    def rewrite(self, m, rw):
        return rw.aten.log_softmax(m.x, m.dim)


@gw.register_pass("fuse-log-softmax")
@dataclass(frozen=True)
class FuseLogSoftmax(gw.Pass):
    """Write log(softmax(x)) as one log_softmax."""

    requires = frozenset({"functional"})

    def apply(self, program, rewriter):
        return gw.apply_rules([LogOfSoftmax], program, rewriter).misses


def test_fuse_log_softmax():
    class Model(torch.nn.Module):
        def forward(self, x):
            return torch.softmax(x, dim=-1).log()

    program = gw.capture(Model(), (torch.randn(4, 3),))
    result = gw.Pipeline("canonicalize,fuse-log-softmax").run(program, instruments=[gw.Numerics()])
    assert "log_softmax" in str(result.diff)
    gw.compare(Model(), result.program)
