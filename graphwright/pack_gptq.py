"""The `pack-gptq` pass: codes that were found before take the places of linears."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphwright.frontends.gptq.load import read_gptq
from graphwright.ir.errors import PassError
from graphwright.ir.packed import PackedWeight
from graphwright.ir.program import Program
from graphwright.ir.rewriter import Rewriter
from graphwright.passes.base import Pass
from graphwright.passes.quant.codes import QuantizedLinear
from graphwright.passes.quant.options import Options
from graphwright.passes.quant.pack import drop_unused, pack_experts, pack_linear
from graphwright.passes.quant.sites import ExpertSite, find_sites
from graphwright.passes.quant.work import read_stages


@dataclass(frozen=True)
class PackGptq(Pass):
    """Pack the linears of a program with the codes of a GPTQ checkpoint, or of a quantization's work folder.

    Args:
        folder: The checkpoint of the same model, or the work folder.
    """

    name = "pack-gptq"
    requires = frozenset({"canonical"})
    approximate = True

    folder: str = ""

    def apply(self, program: Program, rewriter: Rewriter) -> Iterable[Any] | None:
        """Replace every linear that has codes.

        Raises:
            PassError: No folder is named, or codes belong to no linear of the program, or have another size.
            FileFormatError: A file is missing, truncated, or inconsistent with the others.
        """
        results = _codes(Path(self.folder)) if self.folder else {}
        sites = [site for site in find_sites(program, Options(), heads=True, experts=True) if site.path in results]
        unknown = sorted(results.keys() - {site.path for site in sites})
        if not sites or unknown:
            raise PassError(
                f"'{self.name}' has codes of {len(results)} linears, {len(unknown)} of which the program does not have",
                why=f"there is no linear '{unknown[0]}'" if unknown else "no codes were found",
                remedies=["pack-gptq{folder=...} names a checkpoint of the same model", "run canonicalize before it"],
            )
        for site in sites:
            with rewriter.site(self.name, [site.node]) as edit:
                (pack_experts if isinstance(site, ExpertSite) else pack_linear)(edit, site.node, results[site.path])
        drop_unused(program)
        return None


def _codes(folder: Path) -> dict[str, QuantizedLinear]:
    """Codes by module path."""
    if any(folder.glob("stage-*.json")):
        return read_stages(folder)
    return {path: _unpacked(packed) for path, packed in read_gptq(folder).items()}


def _unpacked(packed: PackedWeight) -> QuantizedLinear:
    parts = (packed.codes(), packed.scales, packed.zeros, packed.group_index)
    return QuantizedLinear(*parts, packed.bits, packed.group_size)
