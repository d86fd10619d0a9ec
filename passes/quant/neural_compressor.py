"""Algorithms of Intel Neural Compressor, one linear or one stage of linears at a time, with codes as the result.

Neural Compressor walks models of its own kind; here it is given small modules that hold the linears of one stage, and
the inputs or the Hessian that were measured on the program. So its algorithms run on any captured model.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from graphwright.ir.errors import MissingDependencyError, PassError
from graphwright.passes.quant.codes import QuantizedLinear
from graphwright.passes.quant.options import SCALE_DTYPES, Options


@functools.cache
def require() -> None:
    """Import Neural Compressor, which then only logs errors and writes to a folder that goes with the process.

    Raises:
        MissingDependencyError: It, or a package that it needs, is not installed.
    """
    if importlib.util.find_spec("transformers"):
        importlib.import_module("transformers")  # whether it is there is asked once, when Neural Compressor is imported
    try:
        from neural_compressor.common import options
        from neural_compressor.common.utils import logger as _logger  # noqa: F401 - sets up the logger

        logging.getLogger("neural_compressor").setLevel(logging.ERROR)
        options.workspace = _scratch().name  # its modules make folders here when they are imported
        from neural_compressor.torch.algorithms import weight_only as _weight_only  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(error.name or "neural_compressor", "inc", "quantize-inc") from error


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder that is removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="graphwright-")


def round_to_nearest(weight: Tensor, options: Options) -> QuantizedLinear:
    """Its RTN on a weight `[outputs, inputs]`."""
    require()
    from neural_compressor.torch.algorithms.weight_only.rtn import RTNQuantizer

    stage = _stage([weight])
    RTNQuantizer(_configs(stage, options)).convert(stage)
    return _imported(stage.get_submodule("blocks.0.0"), options)


def half_quadratic(weight: Tensor, options: Options) -> QuantizedLinear:
    """Its HQQ on a weight `[outputs, inputs]`, the zero points rounded to codes afterwards."""
    require()
    from neural_compressor.torch.algorithms.weight_only.hqq.config import QTensorConfig
    from neural_compressor.torch.algorithms.weight_only.hqq.core import HQQTensorHandle

    outputs, inputs = weight.shape
    width = _width(weight, options)
    groups = weight.float().reshape(-1, width)
    config = QTensorConfig(options.bits, group_size=width, optimize=True, round_zero=True, pack=False)
    _, meta = HQQTensorHandle._quantize(groups.T.contiguous(), config)  # one column per group
    scales, zeros = (meta[name].reshape(outputs, inputs // width) for name in ("scale", "zero"))
    return _coded(weight, scales, zeros, replace(options, symmetric=False))


def gptq(weight: Tensor, hessian: Tensor, options: Options) -> QuantizedLinear:
    """Its GPTQ on a weight `[outputs, inputs]` with the second moments `[inputs, inputs]` of the inputs."""
    require()
    from neural_compressor.torch.algorithms.weight_only.gptq import GPTQ

    if options.order not in ("none", "act"):
        raise PassError(
            f"Neural Compressor's GPTQ has no order '{options.order}'", remedies=["order=none", "order=act"]
        )
    width, act = _width(weight, options), options.order == "act"
    solver = GPTQ(torch.nn.Linear(1, 1, bias=False), weight, device=str(weight.device))
    solver.H = hessian.float().clone()
    double = {"use_double_quant": False, "double_quant_dtype": "int", "double_quant_bits": 8, "double_quant_sym": True}
    own = {"bits": options.bits, "sym": options.symmetric, "perchannel": True, "mse": False, "dtype": "int"}
    solver.quantizer.configure(own | double | {"group_size": width, "double_quant_group_size": 256})
    scales, _, zeros, rounded = solver.fasterquant(
        weight.float().clone(), percdamp=options.damping, groupsize=width, act_order=act
    )
    index = _act_groups(hessian, width) if act else None
    return _coded(rounded, scales, zeros, options, index)


def _act_groups(hessian: Tensor, width: int) -> Tensor:
    """The group of each input where groups are formed by falling second moment."""
    order = hessian.float().diagonal().argsort(descending=True)
    return (order.argsort() // width).to(torch.int32)


def activation_aware(
    weights: Sequence[Tensor], inputs: Sequence[Tensor], options: Options
) -> list[tuple[QuantizedLinear, Tensor]]:
    """Its AWQ on linears that share their inputs.

    Returns:
        For each weight its codes, and the factors `[inputs]` that the inputs are to be multiplied with.
    """
    require()
    from neural_compressor.torch.algorithms.weight_only.awq import ActAwareWeightQuant

    stage = _stage(weights)
    solver = ActAwareWeightQuant(
        stage,
        example_inputs=inputs[0].float(),
        weight_config=_configs(stage, options),
        total_block_args=[[batch.float()] for batch in inputs],
        total_block_kwargs=[{} for _ in inputs],
        device=str(inputs[0].device),
    )
    done = solver.quantize(return_int=True)
    found = []
    for i in range(len(weights)):
        module = done.get_submodule(f"blocks.0.{i}")
        found.append((_imported(module.linear, options), module.input_scale.detach()))
    return found


class _Block(torch.nn.ModuleList):
    """Linears that read one value; their outputs side by side."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([linear(x) for linear in self], dim=-1)


class _Stage(torch.nn.Module):
    """A model of one block, as Neural Compressor expects models to be."""

    def __init__(self, block: _Block) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([block])

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[0](x)


def _stage(weights: Sequence[Tensor]) -> _Stage:
    linears = []
    for weight in weights:
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        linear.weight = torch.nn.Parameter(weight.detach().float().clone(), requires_grad=False)
        linears.append(linear)
    return _Stage(_Block(linears)).eval()


def _configs(stage: _Stage, options: Options) -> dict[str, dict[str, Any]]:
    """Its configuration of each linear, under the name that the linear has in the stage."""
    common = {"dtype": "int", "bits": options.bits, "scheme": "sym" if options.symmetric else "asym", "group_dim": 1}
    search = {"use_full_range": False, "use_mse_search": False, "use_layer_wise": False}
    double = {"double_quant_dtype": "int", "double_quant_bits": 8, "double_quant_scheme": "sym"}
    double |= {"use_double_quant": False, "double_quant_group_size": 256}  # type: ignore[dict-item]
    linears = [(name, m) for name, m in stage.named_modules() if isinstance(m, torch.nn.Linear)]
    return {name: {**common, **search, **double, "group_size": _width(m.weight, options)} for name, m in linears}


def _width(weight: Tensor, options: Options) -> int:
    """Inputs of a group.

    Raises:
        PassError: The groups do not fill the inputs, which Neural Compressor cannot do.
    """
    inputs = weight.shape[1]
    width = options.width(inputs)
    if inputs % width:
        raise PassError(f"{inputs} inputs cannot be in groups of {width} in Neural Compressor")
    return width


def _imported(module: Any, options: Options) -> QuantizedLinear:
    """The codes in its packed linear: int32 words along the inputs, zero points less one along the outputs.

    Read here because its own `recover` takes 8-bit codes for signed ones.
    """
    outputs, inputs = module.out_features, module.in_features
    mask = 2**options.bits - 1
    codes = _unpacked(module.qweight, options.bits).transpose(1, 2).reshape(-1, outputs)[:inputs].T
    zeros = (_unpacked(module.qzeros, options.bits).flatten(1)[:, :outputs].T + 1) & mask
    return QuantizedLinear(
        codes=codes.contiguous().to(torch.uint8),
        scales=module.scales.T.contiguous().to(SCALE_DTYPES[options.scale_dtype]),
        zeros=None if options.symmetric else zeros.contiguous().to(torch.uint8),
        group_index=None,
        bits=options.bits,
        group_size=inputs // module.scales.shape[0],
    )


def _unpacked(words: Tensor, bits: int) -> Tensor:
    """The fields of int32 words, lowest first, along a new last axis; a field never lies in two words."""
    shifts = torch.arange(32 // bits, device=words.device) * bits
    return (words.unsqueeze(-1) >> shifts) & (2**bits - 1)


def _coded(
    values: Tensor, scales: Tensor, zeros: Tensor, options: Options, group_index: Tensor | None = None
) -> QuantizedLinear:
    """The codes for values `[outputs, inputs]` on a grid of scales and zero points `[outputs, groups]`."""
    width, inputs = _width(values, options), values.shape[1]
    scales = options.round_scales(scales.float())
    zeros = zeros.round().clamp(0, options.top)
    if options.symmetric:
        zeros = torch.full_like(zeros, 2 ** (options.bits - 1))
    groups = torch.arange(inputs, device=values.device) // width if group_index is None else group_index.long()
    codes = (values.float() / scales[:, groups] + zeros[:, groups]).round().clamp(0, options.top)
    return QuantizedLinear(
        codes=codes.to(torch.uint8),
        scales=scales.to(SCALE_DTYPES[options.scale_dtype]),
        zeros=None if options.symmetric else zeros.to(torch.uint8),
        group_index=group_index,
        bits=options.bits,
        group_size=width,
    )
