"""Whether a GPU finds the same codes as the CPU: `python -m benchmarks.quantization.same_codes`."""

from __future__ import annotations

import torch

from graphwright.passes.quant.options import Options
from graphwright.passes.quant.solver import solve

CASES = (
    Options(),
    Options(bits=3, symmetric=False, order="act"),
    Options(group_size=0, rounds=0),
    Options(group_size=96, rounds=0, order="static"),
)


def main() -> None:
    """Print the share of equal codes and both errors for some options."""
    torch.manual_seed(0)
    inputs = torch.randn(4096, 520) @ torch.randn(520, 520)
    weight, hessian = torch.randn(300, 520), inputs.T @ inputs
    for options in CASES:
        here, there = solve(weight, hessian, options), solve(weight.cuda(), hessian.cuda(), options).to("cpu")
        same = (here.codes == there.codes).float().mean()
        print(f"{options}: {same:.5f} equal, errors {here.error:.5f} {there.error:.5f}")


if __name__ == "__main__":
    main()
