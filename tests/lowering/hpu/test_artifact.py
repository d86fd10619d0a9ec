"""The folder of an HPU artifact: it runs alone, through `torch.compile`, and is read without executing anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import graphwright as gw
from graphwright.lowering.hpu.flat import identifiers
from graphwright.passes.registry import pass_names


class Block(torch.nn.Module):
    """A norm, grouped attention with a mask, and a gate; weights that are tied and views of one another."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = torch.nn.RMSNorm(16, eps=1e-6)
        self.query, self.key = torch.nn.Linear(16, 16), torch.nn.Linear(16, 8)
        self.value = self.key
        self.both = torch.nn.Parameter(torch.randn(2, 16, 16))
        self.register_buffer("second", self.both.detach()[1].T)

    def forward(self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        x = inputs_embeds
        y = self.norm(x)
        split = lambda part: part.unflatten(-1, (-1, 4)).transpose(1, 2)  # noqa: E731
        q, k, v = split(self.query(y)), split(self.key(y)), split(self.value(y))
        mask = attention_mask[:, None, None].bool()
        z = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)
        z = z.transpose(1, 2).flatten(2)
        return {"z": x + z @ self.both[0] @ self.second, "rows": torch.arange(x.shape[1])}


def captured() -> tuple[Block, gw.Program]:
    model = Block().eval()
    example = {"inputs_embeds": torch.randn(2, 5, 16), "attention_mask": torch.ones(2, 5, dtype=torch.long)}
    return model, gw.capture(model, example)


TARGET = "hpu{sizes=batch:1+2/sequence:5+8}"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Block, Path]:
    model, program = captured()
    artifact = gw.target(TARGET).lower(program)
    gw.compare(model, artifact)
    return model, artifact.save(tmp_path_factory.mktemp("hpu") / "out")


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python beside the artifact, where Graphwright cannot be imported."""
    block = "import sys; sys.modules['graphwright'] = None; import runpy; sys.argv = sys.argv[1:];"
    start = f"{block} runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", start, str(folder / "run.py"), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)


def test_it_runs_alone(saved: tuple[Block, Path]) -> None:
    _, folder = saved
    done = python(folder, "--tolerance", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "ok" and len(done.stdout.splitlines()) == 9
    command = json.loads((folder / "manifest.json").read_text())["command"]
    assert command.endswith("run.py --device hpu --backend hpu_backend")


def test_it_notices_other_results(saved: tuple[Block, Path], tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(saved[1], tmp_path / "copy"))
    tensors = load_file(folder / "check.safetensors")
    name = next(name for name in tensors if name.endswith("/out/z"))
    save_file(tensors | {name: tensors[name] + 1}, folder / "check.safetensors")
    done = python(folder)
    assert done.returncode == 1 and "MISMATCH" in done.stdout


def test_the_standalone_model_pads_and_cuts(saved: tuple[Block, Path]) -> None:
    """The same results as the unmodified model at sizes that are no bucket's."""
    model, folder = saved
    script = folder.parent / "use.py"
    script.write_text(
        f"import sys, torch; sys.path.insert(0, {str(folder)!r})\n"
        "from pathlib import Path; from run import Model\n"
        f"inputs, model = torch.load({str(folder.parent / 'in.pt')!r}), Model(Path({str(folder)!r}))\n"
        f"torch.save([model(**one)['z'] for one in inputs], {str(folder.parent / 'out.pt')!r})\n"
        "try: model(inputs_embeds=torch.zeros(9, 9, 16), attention_mask=torch.ones(9, 9).long())\n"
        "except ValueError as error: print(error)\n"
    )
    inputs = []
    for batch, sequence in ((1, 3), (2, 8), (2, 6)):
        mask = torch.ones(batch, sequence, dtype=torch.long)
        mask[-1, :2] = 0
        inputs.append({"inputs_embeds": torch.randn(batch, sequence, 16), "attention_mask": mask})
    torch.save(inputs, folder.parent / "in.pt")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=False)
    assert "no bucket fits" in done.stdout, done.stderr
    for given, have in zip(inputs, torch.load(folder.parent / "out.pt"), strict=True):
        torch.testing.assert_close(have, model(**given)["z"], rtol=1e-5, atol=1e-5)


def test_loading_executes_nothing(saved: tuple[Block, Path], tmp_path: Path) -> None:
    """The Python files are for other machines; what runs here is the program."""
    model, folder = saved
    for file in (folder / "run.py", *folder.glob("modules/*.py")):
        assert "graphwright." not in file.read_text()
    before = set(sys.modules)
    loaded = gw.load_artifact(folder)
    assert not {name for name in set(sys.modules) - before if "exported" in name or name in ("run", "hpu_ops")}
    gw.compare(model, loaded)


def test_a_changed_module_is_refused(saved: tuple[Block, Path], tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(saved[1], tmp_path / "copy"))
    module = next(folder.glob("modules/*.py"))
    module.write_text(module.read_text() + "\n")
    with pytest.raises(gw.GraphwrightError, match="was changed"):
        gw.load_artifact(folder)


def test_torch_compile(stand_in: list[Any]) -> None:
    """The vendor's backend is given one graph per bucket, with the vendor's operators in it."""
    model, program = captured()
    artifact = gw.target(TARGET).lower(program).configure("cpu", "hpu_backend")
    for batch, sequence in ((1, 5), (2, 5), (1, 8), (2, 8), (2, 7)):
        mask = torch.ones(batch, sequence, dtype=torch.long)
        given = {"inputs_embeds": torch.randn(batch, sequence, 16), "attention_mask": mask}
        torch.testing.assert_close(artifact.run(**given)["z"], model(**given)["z"], rtol=1e-5, atol=1e-5)
    names = [{str(node.target) for node in graph.graph.nodes if node.op == "call_function"} for graph in stand_in]
    assert len(stand_in) == 4
    assert all({"hpu.sdpa_recomp_fwd.default", "hpu.rms_norm.default"} <= found for found in names)


def test_passes_and_target_are_known_by_name() -> None:
    assert "hpu" in gw.target_names()
    gw.target("hpu")
    assert {"hpu-attention", "hpu-norm", "hpu-rotary", "hpu-packed", "hpu-experts", "hpu-cache"} <= set(pass_names())


def test_rewrites_are_proved() -> None:
    """Each rewrite computes the same, alone, on random and adversarial inputs; also queries without any key."""
    _, program = captured()
    fused = "canonicalize,fuse-attention,hpu-attention,hpu-norm,hpu-rotary"
    result = gw.Pipeline(fused).run(program)
    assert "sdpa_recomp_fwd" in str(result.program)
    with pytest.raises(gw.MismatchError, match="masked rows"):
        gw.Pipeline(fused.replace("hpu-attention", "hpu-attention{empty_rows=mean}")).run(program)


def test_tensors_are_read_without_a_library(tmp_path: Path) -> None:
    """`run.py` needs torch only."""
    from safetensors.torch import save_file

    from graphwright.lowering.hpu.run import TYPES, read_tensors

    tensors = {name: (3 * torch.randn(3, 5)).to(dtype) for name, dtype in TYPES.items()}
    tensors |= {"scalar": torch.tensor(3), "empty": torch.zeros(0, 4)}
    save_file(tensors, tmp_path / "file", metadata={"some": "text"})
    found = read_tensors(tmp_path / "file")
    assert found.keys() == tensors.keys()
    for name, want in tensors.items():
        assert found[name].dtype == want.dtype and torch.equal(found[name].float(), want.float())


def test_identifiers() -> None:
    found = identifiers(["a.b", "a_b", "class", "0", "forward", "a.b_1"])
    assert len(set(found.values())) == 6 and all(name.isidentifier() for name in found.values())
    assert found["a.b"] == "a_b" and found["class"] != "class" and found["forward"] != "forward"
