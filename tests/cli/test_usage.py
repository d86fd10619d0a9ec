import subprocess
import sys

import pytest

COMMANDS = ["capture", "optimize", "export", "diff", "explain", "bisect", "view", "verify", "passes", "targets"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(run, command):
    status, out, _ = run(command, "--help")
    assert status == 0
    assert f"Example:  graphwright {command}" in " ".join(out.split("\n"))


def test_help_shows_brackets(run):
    assert "name=dtype[sizes]" in run("capture", "--help")[1]


def test_help_names_every_command(run):
    status, out, _ = run("--help")
    assert status == 0
    assert all(command in out for command in COMMANDS)


def test_version(run):
    status, out, _ = run("--version")
    assert (status, out.split()[0]) == (0, "graphwright")


@pytest.mark.parametrize(
    "words",
    [
        ["no-such-command"],
        ["capture"],
        ["capture", "no/such/folder", "-o", "x"],
        ["capture", "no_such_package:Model", "-o", "x"],
        ["capture", "torch.nn:Linear", "-o", "x"],
        ["capture", "json:dumps", "-o", "x"],
        ["capture", "torch.nn:Identity", "-o", "x", "--input", "x=f99[2]"],
        ["diff", "torch.nn:Identity", "--no-such-option"],
        ["export", "torch.nn:Identity"],
    ],
)
def test_wrong_usage_is_status_2(run, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert "Traceback" not in err
    assert not (tmp_path / "x").exists()


def test_a_folder_without_a_model_is_a_failure(run, tmp_path):
    status, out, err = run("capture", tmp_path, "-o", tmp_path / "x")
    assert (status, out) == (1, "")
    assert "holds no model" in err
    assert "Traceback" not in err


def test_a_broken_config_is_a_failure(run, tmp_path):
    (tmp_path / "config.json").write_text("{")
    status, _, err = run("capture", tmp_path, "-o", tmp_path / "x")
    assert status == 1
    assert str(tmp_path) in err


def test_the_installed_command_runs():
    done = subprocess.run([sys.executable, "-m", "graphwright", "passes", "nonsense"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "there is no pass named 'nonsense'" in done.stderr
    assert "Traceback" not in done.stderr
