"""Run an exported model, and compare it with the results it gave where it was exported.

    PT_HPU_LAZY_MODE=0 python run.py --device hpu --backend hpu_backend      # on a machine with Gaudi
    python run.py                                                            # anywhere, with reference kernels

Needs torch only. From Python: `Model(folder, "hpu", "hpu_backend")(input_ids=..., attention_mask=...)`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file: the length of a header, the header as JSON, then the bytes."""
    with path.open("rb") as file:
        start = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start))
    whole = torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8)[8 + start :]
    header.pop("__metadata__", None)
    return {
        name: whole[slice(*entry["data_offsets"])].clone().view(TYPES[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in header.items()
    }


class Model:
    """A model that is compiled once per bucket of sizes; inputs are padded to the smallest that fits.

    Args:
        folder: The exported folder.
        device: Where to run: `hpu` or `cpu`.
        backend: What `torch.compile` is given: `hpu_backend`; empty for no compilation.
    """

    def __init__(self, folder: Path = HERE, device: str = "cpu", backend: str = "") -> None:
        sys.path.insert(0, str(folder))  # the modules import hpu_ops
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        self.inputs, self.outputs = facts["inputs"], facts["outputs"]
        self.buckets, self.padding = facts["buckets"], facts["padding"]
        self.folder, self.device, self.backend = folder, device, backend
        self.tensors = read_tensors(folder / "program" / "weights.safetensors")
        self._compiled: dict[str, Any] = {}

    def module(self, bucket: str) -> Any:
        """The compiled module of a bucket."""
        if bucket not in self._compiled:
            path = self.folder / "modules" / f"{bucket}.py"
            spec = importlib.util.spec_from_file_location(f"exported_{bucket}", path)
            assert spec is not None and spec.loader is not None
            code = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(code)
            made = code.Model(self.tensors, self.device).eval()
            self._compiled[bucket] = torch.compile(made, backend=self.backend, dynamic=False) if self.backend else made
        return self._compiled[bucket]

    @torch.no_grad()
    def __call__(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Results by name for inputs by name."""
        sizes = {d: n for p in self.inputs for d, n in zip(p["shape"], inputs[p["name"]].shape, strict=True)}
        name = self.bucket(sizes)
        want = self.buckets[name]
        padded = [self._padded(inputs[port["name"]], port["shape"], sizes, want) for port in self.inputs]
        results = self.module(name)(*(tensor.to(self.device) for tensor in padded))
        named = zip(self.outputs, results, strict=True)
        return {p["name"]: self._cut(torch.as_tensor(r).cpu(), p["shape"], sizes, want) for p, r in named}

    def bucket(self, sizes: dict[str, int]) -> str:
        """Name of the smallest bucket that fits."""
        free = {name for names in self.padding.values() for name in names}
        found = []
        for name, bucket in self.buckets.items():
            pairs = [(dim, sizes[dim], size) for dim, size in bucket.items() if dim in sizes]
            if all(have <= size if dim in free else have == size for dim, have, size in pairs):
                found.append((math.prod(size for _, _, size in pairs), name))
        if not found:
            raise ValueError(f"no bucket fits {sizes}; there are {', '.join(self.buckets)}")
        return min(found)[1]

    def _missing(self, dim: Any, sizes: dict[str, int], want: dict[str, int]) -> tuple[int, int]:
        """Padding in front and at the end of an axis."""
        terms = [term for term in str(dim).split(" + ") if term in want]
        extra = {term: want[term] - sizes[term] for term in terms if term in sizes}
        front = sum(n for term, n in extra.items() if term in self.padding["front"])
        return front, sum(extra.values()) - front

    def _padded(self, tensor: torch.Tensor, shape: list[Any], sizes: dict[str, int], want: dict[str, int]) -> Any:
        for axis, dim in enumerate(shape):
            front, end = self._missing(dim, sizes, want)
            if dim in self.padding["rows"]:
                tensor = torch.cat([tensor, tensor[:1].expand(end, *tensor.shape[1:])])
            elif front or end:
                blank = [tensor.new_zeros([*tensor.shape[:axis], n, *tensor.shape[axis + 1 :]]) for n in (front, end)]
                tensor = torch.cat([blank[0], tensor, blank[1]], axis)
        return tensor

    def _cut(self, tensor: torch.Tensor, shape: list[Any], sizes: dict[str, int], want: dict[str, int]) -> Any:
        for axis, dim in enumerate(shape):
            front, end = self._missing(dim, sizes, want)
            tensor = tensor.narrow(axis, front, tensor.shape[axis] - front - end)
        return tensor


def main() -> int:
    """Compare each bucket with the recorded results; 0 if they agree."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backend", default="", help="what torch.compile is given, such as hpu_backend")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="difference per largest value")
    options = parser.parse_args()
    model, recorded = Model(HERE, options.device, options.backend), read_tensors(HERE / "check.safetensors")
    worst = 0.0
    for bucket in model.buckets:
        inputs = {port["name"]: recorded[f"{bucket}/in/{port['name']}"] for port in model.inputs}
        for name, result in model(**inputs).items():
            want = recorded[f"{bucket}/out/{name}"]
            gap = (result.double() - want.double()).abs().max() / want.double().abs().max().clamp(min=1e-30)
            worst = max(worst, float(gap))
            print(f"{bucket}: {name} {list(result.shape)} differs by {float(gap):.2e}")
    print("ok" if worst <= options.tolerance else f"MISMATCH: {worst:.2e} is more than {options.tolerance:.0e}")
    return int(worst > options.tolerance)


if __name__ == "__main__":
    raise SystemExit(main())
