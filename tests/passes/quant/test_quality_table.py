"""The table of the quality benchmark: means over draws, the best variant of each library, the ratio to the best."""

from __future__ import annotations

from benchmarks.quantization.runs import SETTINGS, VARIANTS, Run, runs
from benchmarks.quantization.table import table


def test_the_best_mean_of_each_library_counts():
    results = [
        (Run(4, 128, True, "gptqmodel", "mse", 0), 0.005),
        (Run(4, 128, True, "gptqmodel", "act", 0), 0.003),
        (Run(4, 128, True, "gptqmodel", "act", 1), 0.005),
        (Run(4, 128, True, "llmcompressor", "imatrix", 0), 0.0045),
        (Run(4, 128, True, "graphwright", "", 0), 0.001),
        (Run(4, 128, True, "graphwright", "", 1), 0.003),
        (Run(4, 128, True, "graphwright-curvature", "", 0), 0.001),
    ]
    line = table(results).splitlines()[-1]
    assert (
        "0.00400 (act)" in line
        and "0.00200 (0.00100 to 0.00300)" in line
        and line.endswith("| 0.50 | 0.00100 (0.00100 to 0.00100) | 0.25 |")
    )


def test_every_library_meets_every_setting_with_every_variant():
    found = set(runs(["graphwright", *VARIANTS], 2))
    for setting in SETTINGS:
        for library, variants in VARIANTS.items():
            assert {Run(*setting, library, variant, 0) for variant in variants} <= found
        assert Run(*setting, "graphwright", "", 1) in found
    assert not any(run.seed for run in found if run.library == "autoround")
