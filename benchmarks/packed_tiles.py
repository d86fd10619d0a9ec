"""Tiles of the packed kernel on a GPU, each beside a bfloat16 linear: `python -m benchmarks.packed_tiles`.

`lowering.eager.packed.cuda.tile_sizes` holds the best of each line. Several weights take turns, as in
`benchmarks.packed`; every form is compared with the product of the dequantized weight before it is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context

import torch
from torch import Tensor

from benchmarks.packed import cuda_seconds

Tile = tuple[int, int, int, int]  # outputs, rows, programs for a tile, warps
SHAPES = ((14336, 4096), (4096, 14336), (4096, 4096))
ROWS = (32, 64, 128, 256, 512)
COPIES = 6


def tiles(rows: int) -> list[Tile]:
    """The tiles that are tried for a number of rows."""
    widths = {32: (32,), 64: (32, 64), 128: (64, 128)}.get(rows, (128,))
    few = [(128, width, split, warps) for width, split, warps in product(widths, (1, 2, 4), (4, 8))]
    return few + [(256, widths[-1], split, 8) for split in (1, 2, 4)] if rows > 32 else [*few, (128, 32, 8, 4)]


def multiply(x: Tensor, codes: Tensor, scales: Tensor, counts: Tensor, tile: Tile) -> Tensor:
    """One product with the kernel."""
    from graphwright.lowering.eager.kernels.packed_linear_triton import matrix

    outputs, columns, split, warps = tile
    stages = 3 if columns > 64 else 4
    return matrix(
        x, codes, scales, None, None, 128, counts,
        rows=outputs, columns=columns, split=split, warps=warps, late=False, stages=stages,
    )  # fmt: skip


def dequantized(x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """One product with the weight in bfloat16, made anew."""
    from graphwright.lowering.eager.kernels.packed_linear_triton import spread

    return torch.nn.functional.linear(x, spread(codes, scales, None, 128, x.dtype))


def weight(outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
    """Random codes and scales."""
    codes = torch.randint(0, 256, (outputs, inputs // 2), dtype=torch.uint8, device="cuda")
    return codes, torch.rand(inputs // 128, outputs, device="cuda").bfloat16() / 100


def compile_one(job: tuple[int, Tile]) -> None:
    """Leave a compiled kernel in Triton's cache."""
    inputs, tile = job
    x = torch.randn(64, inputs, device="cuda").bfloat16()
    try:
        multiply(x, *weight(512, inputs), torch.zeros(4096, dtype=torch.int32, device="cuda"), tile)
    except Exception as error:  # a tile that is too large for the GPU is no choice
        print(f"{tile}: {type(error).__name__}")


def forms(rows: int, outputs: int, inputs: int) -> Iterator[tuple[str, Callable[[int], Tensor]]]:
    """What is timed, by name."""
    counts = torch.zeros(1 << 16, dtype=torch.int32, device="cuda")
    x = torch.randn(rows, inputs, device="cuda").bfloat16()
    packed = [weight(outputs, inputs) for _ in range(COPIES)]
    dense = [torch.randn(outputs, inputs, device="cuda").bfloat16() for _ in range(COPIES)]
    yield "bfloat16", lambda i: torch.nn.functional.linear(x, dense[i])
    yield "dequantized", lambda i: dequantized(x, *packed[i])
    expected = dequantized(x, *packed[0])
    for tile in tiles(rows):
        call = lambda i, tile=tile: multiply(x, *packed[i], counts, tile)  # noqa: E731
        try:
            error = (call(0).float() - expected.float()).abs().max() / expected.abs().max()
        except Exception:  # see compile_one
            continue
        if error < 0.02:
            yield str(tile), call
        else:
            print(f"{tile}: differs by {float(error):.3g}")


def main() -> None:
    """Print the five fastest forms of each shape and number of rows."""
    jobs = {(inputs, tile) for (_, inputs), rows in product(SHAPES, ROWS) for tile in tiles(rows)}
    with ProcessPoolExecutor(14, mp_context=get_context("spawn")) as pool:
        list(pool.map(compile_one, sorted(jobs)))
    with torch.inference_mode():
        for (outputs, inputs), rows in product(SHAPES, ROWS):
            times = cuda_seconds(dict(forms(rows, outputs, inputs)), COPIES, 5)
            best = sorted(times, key=times.__getitem__)[:5]
            shown = ", ".join(f"{name} {times[name] * 1e6:.1f}" for name in {*best, "bfloat16", "dequantized"})
            ratio = times["bfloat16"] / min(t for name, t in times.items() if name != "bfloat16")
            print(f"{outputs}x{inputs} rows {rows}: {ratio:.2f} | us: {shown}", flush=True)


if __name__ == "__main__":
    main()
