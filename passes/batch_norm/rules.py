"""Batch norm behind a convolution, behind a linear, and before a linear."""

from __future__ import annotations

from typing import Any

from graphwright.ir.edit import Edit
from graphwright.ir.infer import same_size
from graphwright.ir.node import bound
from graphwright.passes.batch_norm.affine import Affine, affine_of, check_evaluation, per_output, scaled
from graphwright.passes.linear.bias import is_weight
from graphwright.passes.patterns import Match, Rule, any_of, aten, tensor
from graphwright.passes.patterns.expressions import Expr


def batch_norm(x: Any) -> Expr:
    """A batch norm of `x`, captured as `norm`."""
    legit = aten._native_batch_norm_legit_no_training(x, ..., ..., ..., ..., ..., ...).named("norm")
    whole = aten.batch_norm(x, ..., ..., ..., ..., ..., ..., ..., ...).named("norm")
    return any_of(whole, legit[0])


class FuseBatchNormInConv(Rule):
    """batch_norm(conv(x, w, b)) -> conv(x, w * scale, b * scale + shift)."""

    requires = frozenset({"functional"})

    def pattern(self, x: Any, w: Any, conv: Any, norm: Any) -> Any:
        """Convolutions over one to three axes, not transposed."""
        weight = tensor(w)
        convs = (
            aten.conv1d.default(x, weight, ..., ..., ..., ..., ...),
            aten.conv2d.default(x, weight, ..., ..., ..., ..., ...),
            aten.conv3d.default(x, weight, ..., ..., ..., ..., ...),
            aten.conv1d.padding(x, weight, ..., ..., ..., ..., ...),
            aten.conv2d.padding(x, weight, ..., ..., ..., ..., ...),
            aten.convolution.default(x, weight, ..., ..., ..., ..., False, ..., ...),
        )
        return batch_norm(any_of(*convs).named("conv"))

    def check(self, m: Match) -> None:
        """Evaluation mode, weights of known size."""
        check_evaluation(m)
        channels = m.conv.rank == m.w.rank and isinstance(m.w.shape[0], int)
        m.require(channels, f"{m.conv} has no batch axis: batch_norm would run over another axis", at=m.conv)
        _check_weights(m, m.w, bound(m.conv.node)["bias"])

    def rewrite(self, m: Match, rw: Edit) -> Any:
        """The same convolution with other weights, which are expressions in the graph."""
        node = m.conv.node
        arguments = bound(node)
        affine = affine_of(m.norm.node, m.w.dtype, rw)
        arguments["weight"] = scaled(m.w, affine, 0, rw)
        arguments["bias"] = per_output(arguments["bias"], affine, rw)
        return rw.call(node.target, *arguments.values())


class FuseBatchNormInLinear(Rule):
    """batch_norm(linear(x, w, b)) -> linear(x, w * scale, b * scale + shift)."""

    requires = frozenset({"functional"})

    def pattern(self, x: Any, w: Any, norm: Any) -> Any:
        """The features are the channels."""
        return batch_norm(aten.linear(x, tensor(w, rank=2), ...).named("linear"))

    def check(self, m: Match) -> None:
        """Evaluation mode, features on axis 1."""
        check_evaluation(m)
        _check_features(m, m.linear)
        _check_weights(m, m.w, bound(m.linear.node)["bias"])

    def rewrite(self, m: Match, rw: Edit) -> Any:
        """The same linear with other weights, which are expressions in the graph."""
        affine = affine_of(m.norm.node, m.w.dtype, rw)
        bias = per_output(bound(m.linear.node)["bias"], affine, rw)
        return rw.aten.linear(m.x, scaled(m.w, affine, 0, rw), bias)


class FuseLinearAfterBatchNorm(Rule):
    """linear(batch_norm(x), w, b) -> linear(x, w * scale, w @ shift + b)."""

    requires = frozenset({"functional"})

    def pattern(self, x: Any, w: Any, b: Any, norm: Any) -> Any:
        """The channels are the features."""
        return aten.linear(batch_norm(tensor(x)), tensor(w, rank=2), b)

    def check(self, m: Match) -> None:
        """Evaluation mode, channels on the last axis."""
        check_evaluation(m)
        _check_features(m, m.x)
        _check_weights(m, m.w, m.captures()["b"])

    def rewrite(self, m: Match, rw: Edit) -> Any:
        """The shift of the batch norm goes through the weight into the bias."""
        affine: Affine = affine_of(m.norm.node, m.w.dtype, rw)
        bias = rw.aten.mv(m.w, affine.shift)
        bias = bias if m.b is None else rw.aten.add(bias, m.b)
        return rw.aten.linear(m.x, scaled(m.w, affine, 1, rw), bias)


def _check_features(m: Match, value: Any) -> None:
    reason = f"{value} has rank {value.rank}: batch_norm runs over axis 1, which is the features only at rank 2"
    m.require(value.rank == 2, reason, at=value)
    m.require(same_size(value.shape[1], m.norm.node.args[3].meta["val"].shape[0]), "sizes do not agree", at=value)


def _check_weights(m: Match, *values: Any) -> None:
    """Folding pays only where the new weights can be computed once."""
    for value in values:
        node = getattr(value, "node", value)
        if node is not None:
            m.require(is_weight(node), f"%{node.name} depends on an input of the program, it is no weight", at=node)
