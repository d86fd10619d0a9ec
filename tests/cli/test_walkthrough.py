"""The case that docs/debugging.md walks through happens as it says."""

import re
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "debugging.md").read_text(encoding="utf-8")
MODEL = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]
OUTPUTS = re.findall(r"^    \$ graphwright explain .*\n((?:    .*\n)+)", PAGE, re.MULTILINE)


def fixed(model):
    """The model with the diff of the page applied to it."""
    old, *new = re.findall(r"^[-+](.*)$", re.search(r"```diff\n(.*?)```", PAGE, re.DOTALL)[1], re.MULTILINE)[1:]
    flag = "        self.heads = heads\n"
    return model.replace(flag, flag + "        self.monitor = False\n").replace(old, "\n".join(new))


def explain(run, tmp_path, monkeypatch, name, model):
    (tmp_path / f"{name}.py").write_text(model)
    monkeypatch.chdir(tmp_path)
    status, out, _ = run("explain", f"{name}:Captioner", "fuse-attention", "--input", "x=f32[2,10,32]")
    assert status == 0
    return out.replace(f"{name}.py", "captioner.py")


def shown(text):
    """The lines of an output as the page indents them."""
    return "".join(f"    {line}\n" for line in text.splitlines())


def test_the_miss_is_explained_as_the_page_says(run, tmp_path, monkeypatch):
    assert shown(explain(run, tmp_path, monkeypatch, "captioner_slow", MODEL)) == OUTPUTS[0]


def test_the_fix_fuses_every_layer(run, tmp_path, monkeypatch):
    assert fixed(MODEL) != MODEL
    assert shown(explain(run, tmp_path, monkeypatch, "captioner_fast", fixed(MODEL))) == OUTPUTS[1]


def test_the_pictures_are_there_and_small():
    pictures = re.findall(r"!\[[^\]]{20,}\]\((images/[\w-]+\.png)\)", PAGE)
    assert len(pictures) == 3
    for name in pictures:
        assert 1000 < (Path(__file__).parents[2] / "docs" / name).stat().st_size < 150_000
