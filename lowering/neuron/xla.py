"""All that the target takes from jaxlib: MLIR, conversion to HLO, and XLA's CPU client.

Most of it is private to jax, so jax is pinned, and no other module imports it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
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

__all__ = [
    "Executable", "chlo", "func", "hlo", "hlo_proto", "hlo_text", "ir", "legalize", "make_context", "parse",
    "with_locations",
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


def hlo_text(bytecode: bytes) -> str:
    """HLO as text."""
    return _computation(bytecode).as_hlo_text()


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
        import ml_dtypes

        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def memory(bytecode: bytes) -> Mapping[str, int]:
    """Bytes that an executable of the module takes: of arguments, outputs, those shared by both, and temporaries."""
    stats = Executable(bytecode, [])._compiled.get_compiled_memory_stats()
    names = ("argument_size_in_bytes", "output_size_in_bytes", "alias_size_in_bytes", "temp_size_in_bytes")
    return {name.removesuffix("_size_in_bytes"): int(getattr(stats, name)) for name in names}
