"""Promises of the package as a whole."""

import subprocess
import sys
from pathlib import Path

import pytest

from graphwright.lowering.registry import BUILT_IN as TARGETS
from graphwright.passes.registry import BUILT_IN as PASSES

ROOT = Path(__file__).parents[1]


def test_import_is_light():
    code = "import sys, torch; before = set(sys.modules); import graphwright; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "graphwright" in loaded
    assert not loaded & {"transformers", "onnx", "onnx_ir", "onnxruntime", "rich", "typer", "networkx", "safetensors"}


def test_every_public_name_can_be_used():
    import graphwright

    assert all(getattr(graphwright, name) is not None for name in graphwright.__all__)


@pytest.mark.parametrize("name", PASSES)
def test_the_docs_list_every_pass(name):
    assert f"`{name}`" in (ROOT / "docs" / "passes.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", TARGETS)
def test_the_readme_lists_every_target(name):
    assert f"`{name}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_links_of_the_docs_lead_somewhere():
    import re

    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)#:]+)\)", prose):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


WITHOUT_TRANSFORMERS = """
import sys, torch, graphwright as gw
assert "transformers" not in sys.modules
program = gw.Program.load(sys.argv[1])
torch.testing.assert_close(program.run_flat(program.example.leaves()), torch.load(sys.argv[2]))
artifact = gw.load_artifact(sys.argv[3])
assert type(artifact(**program.example.kwargs)).__name__ == "CausalLMOutputWithCrossAttentions"
"""


SAVE = """
import sys

import torch
import transformers

import graphwright as gw

folder = sys.argv[1]
config = transformers.GPT2Config(
    n_embd=16, n_layer=1, n_head=2, vocab_size=20, n_positions=32, bos_token_id=0, eos_token_id=0
)
program = gw.capture(transformers.GPT2LMHeadModel(config).eval(), task="text-generation-with-past")
torch.save(program.run_flat(program.example.leaves()), folder + "/results.pt")
gw.target("eager").lower(program).save(folder + "/artifact")
program.save(folder + "/program")
"""


def test_a_new_process_loads_programs_with_caches(tmp_path):
    # Saved in a process of its own: other tests let transformers register its caches under another name.
    subprocess.run([sys.executable, "-c", SAVE, str(tmp_path)], check=True, capture_output=True)
    files = [tmp_path / name for name in ("program", "results.pt", "artifact")]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TRANSFORMERS, *map(str, files)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    same = [sys.executable, "-m", "graphwright", "diff", str(files[0]), str(files[0])]
    assert subprocess.run(same, capture_output=True, text=True).returncode == 0
