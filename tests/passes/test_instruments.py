import html.parser
import json

import pytest
import torch
from torch import nn

from graphwright.ir.errors import MismatchError, PassError, VerifyError
from graphwright.ir.program import Program
from graphwright.ir.signature import Example
from graphwright.passes.instruments import DumpDir, Instrument, Numerics, Timing
from graphwright.passes.numerics import difference
from graphwright.passes.pipeline import Pipeline
from graphwright.passes.trace import Trace

aten = torch.ops.aten


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.GELU()) for _ in range(3)))
    x = torch.randn(2, 4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return Program.from_exported(torch.export.export(model, (x,)), example=Example((x,)), name="Three")


def gelus(program):
    return [node for node in program.nodes if node.target is aten.gelu.default]


def spell_out(program, rewriter):
    """Exact GELU by its definition."""
    for node in gelus(program):
        x = node.args[0]
        with rewriter.site("SpellOut", [node]) as edit:
            half = edit.aten.mul(edit.aten.erf(edit.aten.mul(x, 0.5**0.5)), 0.5)
            edit.replace(node, edit.aten.mul(x, edit.aten.add(half, 0.5)))


def approximate_last(program, rewriter):
    """Right for two of three, wrong for the second."""
    for i, node in enumerate(gelus(program)):
        with rewriter.site("Approximate", [node]) as edit:
            name = aten.relu.default if i == 1 else aten.gelu.default
            edit.replace(node, edit.call(name, node.args[0]))


def fails(program, rewriter):
    raise RuntimeError("broken pass")


def test_timing_prints_a_table(program):
    timing = Timing()
    Pipeline([spell_out]).run(program, [timing])
    assert [record.name for record in timing.records] == ["spell_out"]
    assert timing.seconds > 0
    assert "spell_out" in str(timing)
    assert "100%" in str(timing)


def test_verification_stops_an_invalid_pass(program):
    def breaks(program, rewriter):
        gelus(program)[0].meta.pop("val")
        rewriter.program.touch()

    with pytest.raises(VerifyError, match="gelu"):
        Pipeline([breaks]).run(program)


def test_numerics_accepts_rounding_and_notes_it(program):
    result = Pipeline([spell_out]).run(program, [Numerics()])
    error = result.trace.records[0].notes["numerics"]
    assert 0 <= error < 1e-5
    with pytest.raises(MismatchError):
        Pipeline([spell_out]).run(program, [Numerics(rtol=0.0, atol=-1.0)])


def test_numerics_names_pass_rule_and_first_wrong_site(program):
    with pytest.raises(MismatchError) as caught:
        Pipeline([approximate_last]).run(program, [Numerics()], validate=False)
    text = str(caught.value)
    assert "approximate_last" in text
    assert "rule Approximate" in text
    assert gelus(program)[1].name in text


def test_numerics_blames_a_node_for_a_raw_edit(program):
    def raw(program, rewriter):
        gelus(program)[2].kwargs = {"approximate": "tanh"}

    with pytest.raises(MismatchError, match=gelus(program)[2].name):
        Pipeline([raw]).run(program, [Numerics(rtol=1e-7)])


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("expected", "actual", "fits"),
    [
        (torch.tensor([1.0, NAN, INF]), torch.tensor([1.0, NAN, INF]), True),
        (torch.tensor([1.0, NAN]), torch.tensor([1.0, 0.0]), False),
        (torch.tensor([1.0, 0.0]), torch.tensor([1.0, NAN]), False),
        (torch.tensor([INF]), torch.tensor([-INF]), False),
        (torch.tensor([100.0, 0.0]), torch.tensor([100.0, 1e-3]), True),
        (torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1e-3]), False),
        (torch.tensor([1.0], dtype=torch.float64), torch.tensor([1.0 + 1e-5], dtype=torch.float64), False),
        (torch.tensor([3]), torch.tensor([4]), False),
        (torch.tensor([True]), torch.tensor([True]), True),
        (torch.ones(2), torch.ones(3), False),
        (torch.ones(2), torch.ones(2).double(), False),
        (torch.empty(0), torch.empty(0), True),
        ((torch.ones(1), 2), (torch.ones(1), 2), True),
        ((torch.ones(1), 2), (torch.ones(1),), False),
        (2, 2.0, False),
        (None, None, True),
    ],
)
def test_what_counts_as_equal(expected, actual, fits):
    reason, error = difference(expected, actual, None, 1e-6)
    assert (reason is None) == fits
    assert error >= 0


class Page(html.parser.HTMLParser):
    """Checks that nothing is loaded from elsewhere, and collects the page's data."""

    def __init__(self):
        super().__init__()
        self.data, self._inside = "", False

    def handle_starttag(self, tag, attrs):
        assert tag not in ("link", "img", "iframe")
        assert not {"src", "href", "onload"} & dict(attrs).keys()
        self._inside = tag == "script" and dict(attrs).get("id") == "data"

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        self.data += data if self._inside else ""


def test_dumpdir_writes_diffs_trace_summary_and_page(program, tmp_path):
    def nearly(program, rewriter):
        return ["Rule <b> at %x: nearly"]

    result = Pipeline([spell_out, nearly]).run(program, [DumpDir(tmp_path / "out")])
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["01-spell_out.diff", "02-nearly.diff", "index.html", "summary.txt", "trace.json"]
    assert "- %gelu" in (tmp_path / "out" / "01-spell_out.diff").read_text()
    assert "# miss: Rule <b>" in (tmp_path / "out" / "02-nearly.diff").read_text()
    assert Trace.load(tmp_path / "out" / "trace.json") == result.trace
    assert "SpellOut x3" in (tmp_path / "out" / "summary.txt").read_text()
    page = Page()
    page.feed((tmp_path / "out" / "index.html").read_text())
    shown = json.loads(page.data)
    assert [pass_["name"] for pass_ in shown["passes"]] == ["spell_out", "nearly"]
    assert shown["passes"][1]["misses"][0]["reason"] == "Rule <b> at %x: nearly"


def test_dumpdir_of_a_second_run_has_no_files_of_the_first(program, tmp_path):
    Pipeline([spell_out, spell_out]).run(program, [DumpDir(tmp_path)])
    Pipeline([spell_out]).run(program, [DumpDir(tmp_path)])
    assert [path.name for path in tmp_path.glob("*.diff")] == ["01-spell_out.diff"]


def test_dumpdir_keeps_what_a_failing_pass_was_given(program, tmp_path):
    with pytest.raises(PassError, match="broken pass"):
        Pipeline([spell_out, fails]).run(program, [DumpDir(tmp_path)])
    assert "broken pass" in (tmp_path / "failed-fails" / "error.txt").read_text()
    kept = Program.load(tmp_path / "failed-fails" / "program")
    x = program.example.args[0]
    assert torch.allclose(kept.run(x), program.run(x), atol=1e-5)
    assert not gelus(kept)


def test_dumpdir_shows_the_failure_even_if_the_program_cannot_be_written(program, tmp_path):
    odd = program.clone()
    odd.state["odd"] = torch.ones(2, device="meta")
    with pytest.raises(PassError, match="broken pass"):
        Pipeline([fails]).run(odd, [DumpDir(tmp_path)])
    assert "'odd' cannot be written" in (tmp_path / "failed-fails" / "error.txt").read_text()


def test_hooks_come_in_order(program):
    class Log(Instrument):
        def __init__(self):
            self.calls = []

        def start(self, program):
            self.calls.append("start")

        def before_pass(self, pass_, program):
            self.calls.append(f"before {pass_}")

        def on_rewrite(self, rewrite):
            self.calls.append(rewrite.rule)

        def after_pass(self, pass_, program, record):
            self.calls.append(f"after {record.name}")

        def on_failure(self, pass_, program, error):
            self.calls.append(f"failure {error}")

        def finish(self, result):
            self.calls.append("finish")

    log = Log()
    Pipeline([spell_out]).run(program, [log])
    assert log.calls == ["start", "before spell_out", *["SpellOut"] * 3, "after spell_out", "finish"]
    log = Log()
    with pytest.raises(PassError):
        Pipeline([fails]).run(program, [log])
    assert log.calls == ["start", "before fails", "failure broken pass"]
