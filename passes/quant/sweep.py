"""Sweeps: choose codes input by input, and let what the choice misses be made up by the inputs that follow.

Both algorithms are one recursion over halves of the inputs, so that nearly all work is matrix products:

| algorithm | target of input `i` | step that is passed on | factor |
|---|---|---|---|
| GPTQ | the weights, corrected so far | target - value | rows of the inverse Hessian's Cholesky factor, diagonal 1 |
| coordinate descent | the best value given all others | value - earlier value | `H[i, j] / H[j, j]` |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graphwright.passes.quant.grid import Grid

BLOCK = 128  # inputs that one kernel handles on a GPU
_NARROW = 64  # outputs
_LEAF = 16  # inputs handled one by one on a CPU, where their targets stay in the cache


@dataclass
class Sweep:
    """State of one sweep over `[inputs, outputs]`.

    Args:
        targets: What each input's weights should be; changed in place.
        factor: `[inputs, inputs]`: `targets[j] -= factor[i, j] * step[i]` for later inputs `j`.
        grid: The grid to choose codes from.
        group: Group of each input.
        codes: Float codes, written.
        values: The weights that the codes stand for, written; coordinate descent reads the earlier ones.
        descent: Coordinate descent rather than GPTQ.
    """

    targets: Tensor
    factor: Tensor
    grid: Grid
    group: Tensor
    codes: Tensor
    values: Tensor
    descent: bool = False

    def __post_init__(self) -> None:
        tensors = (self.targets, self.factor, self.grid.scale, self.grid.zero, self.group, self.codes, self.values)
        assert all(tensor.is_contiguous() for tensor in tensors), "one input's values must be next to each other"
        self.steps = torch.empty_like(self.targets)
        is_narrow = self.targets.shape[1] <= _NARROW and self.targets.dtype is torch.float32
        self._choose = self._kernel if self.targets.is_cuda else self._narrow_leaf if is_narrow else self._leaf

    def run(self) -> None:
        """Choose all codes."""
        self._run(0, len(self.targets))

    def _run(self, start: int, end: int) -> None:
        leaf = BLOCK if self.targets.is_cuda else _LEAF
        if end - start <= leaf:
            return self._choose(start, end)
        middle = start + leaf * ((end - start + leaf) // (2 * leaf))
        self._run(start, middle)
        self.targets[middle:end].addmm_(self.factor[start:middle, middle:end].T, self.steps[start:middle], alpha=-1)
        return self._run(middle, end)

    def _kernel(self, start: int, end: int) -> None:
        from graphwright.passes.quant.kernel import sweep_block

        sweep_block(self, start, end)

    def _leaf(self, start: int, end: int) -> None:
        """Input by input; rows of the grid are looked up once."""
        grid, groups = self.grid, self.group[start:end].tolist()
        rows = {g: (grid.zero[g], 1 / grid.scale[g], -grid.zero[g] * grid.scale[g], grid.scale[g]) for g in {*groups}}
        block, factors = self.targets[start:end], self.factor[start:end, start:end].unbind()
        all_rows = (part[start:end].unbind() for part in (self.targets, self.codes, self.values, self.steps))
        for i, (g, target, code, value, step) in enumerate(zip(groups, *all_rows, strict=True)):
            zero, inverse, offset, scale = rows[g]
            torch.addcmul(zero, target, inverse, out=code).round_().clamp_(0, grid.top)
            if self.descent:
                torch.neg(value, out=step)
                step += torch.addcmul(offset, code, scale, out=value)
            else:
                torch.sub(target, torch.addcmul(offset, code, scale, out=value), out=step)
            block[i + 1 :].addr_(factors[i][i + 1 :], step, alpha=-1)

    def _narrow_leaf(self, start: int, end: int) -> None:
        """The same for few outputs: NumPy's calls take a third of the time of PyTorch's."""
        all_rows = (self.targets, self.codes, self.values, self.steps, self.factor[:, start:end])
        targets, codes, values, steps, factors = (part[start:end].numpy() for part in all_rows)
        groups, scales, zeros = self.group[start:end].tolist(), self.grid.scale.numpy(), self.grid.zero.numpy()
        for i, g in enumerate(groups):
            code, target = codes[i], targets[i]
            np.rint(target / scales[g] + zeros[g], out=code)
            np.minimum(np.maximum(code, 0, out=code), self.grid.top, out=code)
            value = (code - zeros[g]) * scales[g]
            steps[i] = value - values[i] if self.descent else target - value
            values[i] = value
            if i + 1 < len(groups):
                targets[i + 1 :] -= factors[i, i + 1 :, None] * steps[i]
