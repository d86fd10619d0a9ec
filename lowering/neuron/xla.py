"""All that the target takes from jaxlib: MLIR, conversion to HLO, and XLA's CPU client.

Most of it is private to jax, so jax is pinned, and no other module imports it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from typing import Any

import jax
import numpy as np
import torch
from jax._src import compiler, xla_bridge
from jax._src.interpreters import mlir
from jax._src.lib import _jax
from jax._src.lib.mlir import ir, passmanager
from jax._src.lib.mlir.dialects import chlo, func, hlo
from jaxlib import _hlo  # type: ignore[attr-defined]

__all__ = [
    "Executable", "chlo", "elements", "from_hlo", "func", "hlo", "hlo_proto", "ir", "legalize", "make_context", "parse",
    "tensor_of", "with_locations",
]  # fmt: skip

_LEGALIZE = "builtin.module(func.func(chlo-legalize-to-stablehlo),canonicalize,cse)"


def make_context() -> Any:
    """An MLIR context with the dialects of StableHLO, CHLO and functions."""
    return mlir.make_ir_context()


@cache
def _register_passes() -> None:
    hlo.register_stablehlo_passes()


def legalize(module: Any) -> None:
    """Expand CHLO into StableHLO, and remove repeated and unread operations, in place."""
    _register_passes()
    passmanager.PassManager.parse(_LEGALIZE).run(module.operation)
    module.operation.verify()


def elements(array: np.ndarray, **options: Any) -> Any:
    """An array as an attribute; `type` is the element type and `shape` the shape where they are not the array's."""
    get: Any = ir.DenseElementsAttr.get  # annotated for objects with a buffer, which numpy's arrays do not say they are
    return get(array, **options)


def parse(data: bytes | str) -> tuple[Any, Any]:
    """A context, and the module that its text or bytecode stands for."""
    context = make_context()
    with context:
        return context, ir.Module.parse(data)


def with_locations(module: Any) -> bytes:
    """A module as MLIR bytecode, which keeps the locations that text leaves out."""
    buffer = io.BytesIO()
    module.operation.write_bytecode(buffer)
    return buffer.getvalue()


def hlo_proto(bytecode: bytes) -> bytes:
    """The serialized `HloModuleProto` of a module; its ids are jaxlib's, which have 64 bits."""
    return _computation(bytecode).as_serialized_hlo_module_proto()


def from_hlo(proto: bytes) -> bytes:
    """The module, as MLIR bytecode, that a serialized `HloModuleProto` stands for."""
    context, module = parse(_jax.mlir.xla_computation_to_mlir_module(_hlo.XlaComputation(proto)))
    with context:
        return with_locations(module)


def _computation(bytecode: bytes) -> Any:
    return _jax.mlir.mlir_module_to_xla_computation(bytecode, use_tuple_args=False, return_tuple=True)


class Executable:
    """A module compiled by XLA's CPU client.

    Args:
        bytecode: The module, as `with_locations` returned it.
        weights: Values of the parameters after the inputs, in order.
    """

    def __init__(self, bytecode: bytes, weights: Sequence[torch.Tensor]) -> None:
        jax.config.update("jax_enable_x64", True)  # else buffers of 64 bits are made of 32
        self._client = xla_bridge.get_backend("cpu")
        self._device = self._client.local_devices()[0]
        context, module = parse(bytecode)
        with context:
            devices = _jax.DeviceList((self._device,))
            options = compiler.get_compile_options(1, 1)
            self._compiled = self._client.compile_and_load(module, devices, options)
        self._weights = [self.buffer(weight) for weight in weights]

    def buffer(self, tensor: torch.Tensor) -> Any:
        """A tensor as a buffer of the client, with memory of its own."""
        return jax.device_put(_array(tensor), self._device, may_alias=False)

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        """Run on buffers; those that the module aliases with an output are used up.

        Returns:
            The outputs as buffers.
        """
        results = self._compiled.execute_sharded([*inputs, *self._weights])
        return [arrays[0] for arrays in results.disassemble_into_single_device_arrays()]


def tensor_of(buffer: Any) -> torch.Tensor:
    """A buffer as a tensor with memory of its own."""
    array = np.array(buffer)
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _array(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(jax.dtypes.bfloat16)
    return tensor.numpy()
