"""Measured speeds: chosen, kept in a file, read again, and measured anew where the file is no good."""

from __future__ import annotations

import json
import os

import pytest

from graphwright.lowering.eager import speeds as module
from graphwright.lowering.eager.speeds import Speeds, cache_folder, machine, timed


@pytest.fixture
def clock(monkeypatch):
    """Makes `timed` return what it is told, and counts the calls."""
    found = {"seconds": {"a": 2.0, "b": 1.0}, "count": 0}

    def fake(forms):
        found["count"] += 1
        return {name: found["seconds"][name] for name in forms}

    monkeypatch.setattr(module, "timed", fake)
    return found


FORMS = {"a": lambda: None, "b": lambda: None}


def test_the_fastest_is_chosen_and_remembered(tmp_path, clock):
    path = tmp_path / "deep" / "speeds.json"
    speeds = Speeds(path)
    assert [speeds.fastest("x", FORMS) for _ in range(3)] == ["b"] * 3
    assert Speeds(path).fastest("x", FORMS) == "b"
    assert clock["count"] == 1
    assert Speeds(path).fastest("y", FORMS) == "b"
    assert clock["count"] == 2
    assert set(json.loads(path.read_text())["seconds"]) == {"x", "y"}
    assert [file.name for file in path.parent.iterdir()] == ["speeds.json"]


def test_the_first_stays_unless_another_is_clearly_faster(clock):
    clock["seconds"] = {"a": 1.0, "b": 0.99}
    assert Speeds(None).fastest("x", FORMS) == "a"
    clock["seconds"] = {"a": 1.0, "b": 0.9}
    assert Speeds(None).fastest("x", FORMS) == "b"


def test_a_further_form_is_measured(tmp_path, clock):
    speeds = Speeds(tmp_path / "s.json")
    assert speeds.fastest("x", {"a": FORMS["a"]}) == "a"
    assert speeds.fastest("x", FORMS) == "b"
    assert clock["count"] == 2


DAMAGED = [
    b"",
    b"{",
    b"\xff\xfe",
    b"[1]",
    b"{}",
    b'{"machine": {}, "seconds": {}}',
    json.dumps({"machine": machine(), "seconds": []}).encode(),
    json.dumps({"machine": machine(), "seconds": {"x": {"a": "fast", "b": 1.0}}}).encode(),
    json.dumps({"machine": machine(), "seconds": {"x": {"a": -1.0, "b": 1.0}}}).encode(),
    json.dumps({"machine": {**machine(), "cpu": "another"}, "seconds": {"x": {"a": 1.0, "b": 5.0}}}).encode(),
]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_or_foreign_file_is_measured_again(content, tmp_path, clock):
    path = tmp_path / "speeds.json"
    path.write_bytes(content)
    assert Speeds(path).fastest("x", FORMS) == "b"
    assert clock["count"] == 1
    assert Speeds(path).fastest("x", FORMS) == "b"
    assert clock["count"] == 1


def test_two_processes_add_to_one_file(tmp_path, clock):
    path = tmp_path / "speeds.json"
    first, second = Speeds(path), Speeds(path)
    first.fastest("x", FORMS)
    second.fastest("y", FORMS)
    assert set(json.loads(path.read_text())["seconds"]) == {"x", "y"}


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path, clock):
    (tmp_path / "file").write_text("")
    speeds = Speeds(tmp_path / "file" / "speeds.json")
    assert speeds.fastest("x", FORMS) == "b"
    assert speeds.fastest("x", FORMS) == "b"
    assert clock["count"] == 1


def test_a_failed_write_leaves_nothing(tmp_path, clock, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    Speeds(tmp_path / "s.json").fastest("x", FORMS)
    assert list(tmp_path.iterdir()) == []


def test_timed_takes_turns():
    order = []
    seconds = timed({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3)
    assert order == ["a", "b"] * 4
    assert set(seconds) == {"a", "b"} and all(value >= 0 for value in seconds.values())


def test_where_the_file_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("GRAPHWRIGHT_CACHE", raising=False)
    assert cache_folder() == tmp_path / "xdg" / "graphwright"
    monkeypatch.setenv("GRAPHWRIGHT_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
