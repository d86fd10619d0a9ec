"""What Furiosa's compiler says of ATen ops: the answers of one release to `tools/furiosa_check.py --ops`.

The compiler reads more ops than it has code for: those that are only importable are refused when it lowers a graph.
Names are those of ATen's schemas: `add.Tensor`, or `bmm` for an overload without a name.
"""

from __future__ import annotations

RELEASE = "furiosa-torch 2026.4.0"

_SUPPORTED = """
    _adaptive_avg_pool2d _log_softmax _softmax _to_copy abs add.Scalar add.Tensor amax any.dim argmax avg_pool2d
    bitwise_and.Scalar bitwise_and.Tensor bitwise_or.Scalar bitwise_or.Tensor bitwise_xor.Scalar bitwise_xor.Tensor
    bmm cat clamp clone constant_pad_nd convolution copy copy_ cos cumsum detach_copy div.Scalar div.Tensor eq.Scalar
    eq.Tensor erf exp expand expand_copy fill.Scalar full full_like gather ge.Scalar ge.Tensor gt.Scalar gt.Tensor
    index.Tensor index_put index_select isnan le.Scalar le.Tensor leaky_relu log logical_and logical_not logical_xor
    lt.Scalar lt.Tensor max.dim max_pool2d_with_indices maximum mean mean.dim minimum mm mul.Scalar mul.Tensor
    ne.Scalar ne.Tensor neg permute permute_copy pow.Tensor_Scalar reciprocal relu rsqrt scatter.src select_copy.int
    sigmoid sin slice.Tensor slice_copy.Tensor slice_scatter split_copy.Tensor split_with_sizes split_with_sizes_copy
    sqrt squeeze.dim squeeze.dims squeeze_copy.dim sub.Scalar sub.Tensor sum.dim_IntList t_copy tanh topk
    transpose_copy.int unsqueeze unsqueeze_copy var_mean.correction view view_copy where.self
"""
_IMPORTABLE_ONLY = """
    _adaptive_avg_pool3d acos acosh adaptive_avg_pool1d alias amin any arange arange.start arange.start_step argmin
    asin asinh atan atanh avg_pool1d avg_pool3d bitwise_not ceil cosh empty.memory_format flip floor fmod.Scalar
    fmod.Tensor gelu hardtanh isinf lift_fresh_copy log2 logical_or max max_pool3d_with_indices min min.dim nonzero
    pow.Tensor_Tensor prod prod.dim_int rand randn randperm remainder.Scalar remainder.Tensor round scalar_tensor
    scatter.value scatter_add select.int select_scatter sign sinh sort tan unbind_copy.int var.correction var.dim
"""

SUPPORTED = frozenset(_SUPPORTED.split())
IMPORTABLE_ONLY = frozenset(_IMPORTABLE_ONLY.split())

FAILING = frozenset({"gather"})
"""Ops that are listed as supported, on which the compiler fails whatever the types."""
