"""Make stub CUDA libraries, so that a CUDA build of torch imports without the nvidia wheels.

Run as `furiosa_stubs.py TORCH_LIB_FOLDER OUT`, then start Python with `LD_LIBRARY_PATH=OUT`. Furiosa's compiler is
linked against one release of torch, whose wheel on PyPI is the CUDA build; the compiler runs on a CPU and never calls
CUDA. Each stub exports the symbols that torch's libraries look up, and every function returns an error code. Needs
gcc, nm and readelf. For a compiler's environment only: nothing else should run on such a torch.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

CUDA_LIBRARY = re.compile(r"lib(cu|nccl|nvrtc|nvshmem|nvTools|nvJit)")
CUDA_SYMBOL = re.compile(r"(cu|nccl|nvrtc|nvshmem|nvtx|nvJit|__cuda)")
UNVERSIONED = "libcufile.so.0"
FAILURE = 100

Symbols = dict[str, dict[str, set[str]]]


def main(folder: Path, out: Path) -> None:
    """Write one stub for each CUDA library that the libraries in `folder` need."""
    libraries = sorted(folder.glob("*.so*"))
    wanted = {name for library in libraries for name in _needed(library) if CUDA_LIBRARY.match(name)}
    symbols = _missing(libraries)
    out.mkdir(parents=True, exist_ok=True)
    for name in sorted(wanted):
        build(out / name, symbols.get(name, {}))
    print(f"{len(wanted)} stub libraries in {out}")


def build(path: Path, versions: dict[str, set[str]]) -> None:
    """Compile one shared library that exports functions by symbol version ('' for no version)."""
    names = sorted({name for group in versions.values() for name in group})
    nodes = [f"{v} {{ global: {' '.join(f'{n};' for n in sorted(group))} }};" for v, group in versions.items() if v]
    with tempfile.TemporaryDirectory() as work:
        source, script = Path(work, "stub.c"), Path(work, "stub.map")
        source.write_text("\n".join(map(_function, names)) + "\n")
        script.write_text("\n".join(nodes) + "\n")
        flags = [f"-Wl,--version-script={script}"] if nodes else []
        command = ["gcc", "-shared", "-fPIC", "-w", "-o", str(path), f"-Wl,-soname,{path.name}", str(source), *flags]
        subprocess.run(command, check=True)


def _function(name: str) -> str:
    # The libraries' constructors write through the handle that this one returns.
    if name == "__cudaRegisterFatBinary":
        return f"static void *handle[64]; void *{name}(void *image) {{ return handle; }}"
    return f"int {name}(void) {{ return {FAILURE}; }}"


def _missing(libraries: Iterable[Path]) -> Symbols:
    """Library -> symbol version -> names that no given library defines."""
    wanted, defined, owner = set[str](), set[str](), dict[str, str]()
    for library in libraries:
        wanted |= set(_symbols(library, "--undefined-only"))
        defined |= {name.partition("@")[0] for name in _symbols(library, "--defined-only")}
        owner |= _version_owners(library)
    found: Symbols = defaultdict(lambda: defaultdict(set))
    for name, _, version in (symbol.partition("@") for symbol in wanted):
        if name not in defined and CUDA_SYMBOL.match(name):
            version = version.lstrip("@")
            found[owner.get(version, UNVERSIONED)][version].add(name)
    return found


def _needed(library: Path) -> list[str]:
    return re.findall(r"\(NEEDED\).*\[(.*)\]", _output("readelf", "-dW", str(library)))


def _symbols(library: Path, kind: str) -> list[str]:
    return [line.split()[-1] for line in _output("nm", "-D", kind, str(library)).splitlines() if line.strip()]


def _version_owners(library: Path) -> dict[str, str]:
    """Symbol version -> the library that is asked for it."""
    owners: dict[str, str] = {}
    current = ""
    for line in _output("readelf", "-VW", str(library)).splitlines():
        if file := re.search(r"File: (\S+)", line):
            current = file.group(1)
        if current and (name := re.search(r"Name: (\S+)\s+Flags", line)):
            owners[name.group(1)] = current
    return owners


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
