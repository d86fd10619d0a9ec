"""A pass of another package: built, installed, found through its entry point, run, tested."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "data" / "third_party_pass"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Environment in which the package is installed, in a folder of its own."""
    source = tmp_path_factory.mktemp("source") / "log_softmax"
    site = tmp_path_factory.mktemp("site")
    shutil.copytree(PACKAGE, source)  # building writes into the source folder
    install = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", *install, str(source)], check=True, stdin=subprocess.DEVNULL)
    return os.environ | {"PYTHONPATH": str(site)}


def python(environment, *words):
    done = subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_pass_is_listed_with_the_built_in_ones(installed):
    found = json.loads(python(installed, "-m", "graphwright", "passes", "--json"))
    summaries = {row["name"]: row["summary"] for row in found}
    assert summaries["fuse-log-softmax"] == "Write log(softmax(x)) as one log_softmax."
    assert "canonicalize" in summaries


def test_it_is_not_there_without_the_package():
    names = {row["name"] for row in json.loads(python(dict(os.environ), "-m", "graphwright", "passes", "--json"))}
    assert "canonicalize" in names
    assert "fuse-log-softmax" not in names


def test_the_test_of_the_package_passes(installed):
    out = python(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{installed['PYTHONPATH']}/log_softmax.py")
    assert "1 passed" in out


def test_the_readme_shows_this_pass():
    readme = (PACKAGE.parents[2] / "README.md").read_text(encoding="utf-8")
    assert (PACKAGE / "log_softmax.py").read_text(encoding="utf-8") in readme
