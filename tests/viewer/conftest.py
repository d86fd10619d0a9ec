"""A browser, and traces to look at in it."""

from __future__ import annotations

import shutil

import pytest

from graphwright.ir.record import NodeRecord, Rewrite
from graphwright.ir.snapshot import Snapshot, StateRecord
from graphwright.passes.misses import MissRecord
from graphwright.passes.sources import Sources
from graphwright.passes.trace import PassRecord, Trace

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1440,900",
)  # fmt: skip
PER_LAYER = 20


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    """Headless Chromium with the driver that came with it; nothing is downloaded."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("no chromium and chromedriver on this machine (Debian: apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (dev extra)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.set_script_timeout(30)
    yield browser
    browser.quit()


@pytest.fixture
def show(chromium, tmp_path):
    """show(trace): open its page; at the end of the test, the console must be free of errors."""

    def open_page(trace, name="index.html"):
        (tmp_path / name).write_text(trace.to_html(), encoding="utf-8")
        chromium.get((tmp_path / name).as_uri())
        chromium.execute_async_script(
            "const done = arguments[0]; (function wait() { window.graphwrightReady ? done() : setTimeout(wait, 5) })()"
        )
        return chromium

    chromium.get_log("browser")
    yield open_page
    assert [entry for entry in chromium.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def node(name, target, *args, type="f32[batch,8]", path="", source="", op="call_function"):
    return NodeRecord(name, op, target, args, (), type, path, source)


def layer(i, x, source="model.py:7"):
    """One layer: a weight, a linear, a softmax to be fused, and pointwise calls."""
    path = f"encoder.layer.{i}"
    names = [f"step_{i}_{k}" for k in range(PER_LAYER - 4)]
    nodes = [
        node(f"weight_{i}", f"{path}.weight", op="get_attr", type="f32[8,8]", path=f"{path}.linear"),
        node(f"linear_{i}", "aten.linear.default", x, f"weight_{i}", path=f"{path}.linear", source="model.py:3"),
        node(f"scores_{i}", "aten.mul.Tensor", f"linear_{i}", f"linear_{i}", path=f"{path}.attention", source=source),
        node(f"softmax_{i}", "aten.softmax.int", f"scores_{i}", -1, path=f"{path}.attention", source=source),
    ]
    for name, before in zip(names, (f"softmax_{i}", *names), strict=False):
        nodes.append(node(name, "aten.relu.default", before, path=f"{path}.output", source="model.py:9"))
    return nodes


def fuse(nodes, i):
    """What is left of a layer after `scores` and `softmax` became `fused`, and the record of it."""
    old = [record for record in nodes if record.name in (f"scores_{i}", f"softmax_{i}")]
    new = node(
        f"fused_{i}", "aten.sigmoid.default", f"linear_{i}", path=f"encoder.layer.{i}.attention", source="model.py:7"
    )
    user = next(record for record in nodes if record.name == f"step_{i}_0")
    moved = node(user.name, user.target, new.name, path=user.path, source=user.source)
    after = [moved if r is user else new if r is old[-1] else r for r in nodes if r is not old[0]]
    rewrite = Rewrite(
        "fuse", "Fuse", f"encoder.layer.{i}.attention", "model.py:7", tuple(old), (new,), ((old[-1].name, new.name),)
    )
    return after, rewrite


def make_trace(layers, title="Stack"):
    """Two passes over a stack of layers: one fuses a pair of nodes in each, one does nothing and says why."""
    before, after, rewrites, x = [node("x", "x", op="placeholder")], [node("x", "x", op="placeholder")], [], "x"
    for i in range(layers):
        nodes = layer(i, x)
        fused, rewrite = fuse(nodes, i)
        before, after, x = [*before, *nodes], [*after, *fused], nodes[-1].name
        rewrites.append(rewrite)
    end = node("output", "output", ("tuple", x), op="output", type="")
    state = tuple(StateRecord(f"encoder.layer.{i}.weight", "f32[8,8]", 256) for i in range(layers))
    first, second = (Snapshot(title, (*nodes, end), state) for nodes in (before, after))
    misses = tuple(
        MissRecord(
            f"Wide at %fused_{i}: expected softmax, found %linear_{i}", "Wide", f"fused_{i}",
            f"expected softmax, found %linear_{i}", f"linear_{i}", f"encoder.layer.{i}.linear", "model.py:3", 2,
            "run canonicalize first", "sigmoid(softmax(x, -1))", (8, 22),
        )
        for i in range(layers)
    )  # fmt: skip
    lines = {k: f"line {k}" for k in range(1, 12)} | {7: "    return torch.softmax(scores, -1)"}
    sources = Sources(["package/model.py"], [lines], {f"model.py:{k}": (0, k) for k in (3, 7, 9)})
    records = [
        PassRecord("fuse", tuple(rewrites), first, second, 0.004, notes={"numerics": 1e-7}),
        PassRecord("widen", (), second, second, 0.001, misses),
    ]
    return Trace(records, sources)


@pytest.fixture(scope="session")
def stack():
    """stack(layers): the trace of two passes over a stack of that many layers of 20 nodes."""
    return make_trace


@pytest.fixture(scope="session")
def trace():
    return make_trace(12)
