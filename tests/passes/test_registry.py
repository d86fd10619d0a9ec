"""Names of passes: registered, taken, offered by other packages."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint

import pytest
import torch

from graphwright.ir.errors import PipelineError
from graphwright.passes import registry
from graphwright.passes.base import FunctionPass, Pass
from graphwright.passes.patterns import Rule, aten
from graphwright.passes.pipeline import Pipeline
from graphwright.passes.registry import describe, find_pass, pass_names, register_pass


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """Registrations of one test are gone in the next."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))


@pytest.fixture
def offered(monkeypatch):
    """offered(name="module:Object"): entry points of other packages."""

    def offer(**points):
        made = [EntryPoint(name.replace("_", "-"), path, registry.GROUP) for name, path in points.items()]
        monkeypatch.setattr(registry, "entry_points", lambda group: made if group == registry.GROUP else [])

    return offer


@dataclass(frozen=True)
class Offered(Pass):
    """Negates nothing."""

    times: int = 1

    def apply(self, program, rewriter):
        """Do nothing."""


def offered_function(program, rewriter):
    """Touch nothing."""


class DoubleNegation(Rule):
    """Neg(neg(x)) -> x."""

    def pattern(self, x):
        return aten.neg(aten.neg(x))

    def rewrite(self, m, rw):
        return m.x


def test_built_in_passes_are_found_and_have_a_summary():
    for name in registry.BUILT_IN:
        assert find_pass(name).name == name
        assert describe(name).summary.endswith(".")
    assert {"canonicalize", "fuse-attention", "merge-linears", "unmerge-linears", "functionalize"} <= set(pass_names())


def test_importing_the_registry_imports_no_pass():
    import subprocess
    import sys

    code = (
        "import sys, graphwright.passes.registry;"
        "print([m for m in sys.modules if m.startswith('graphwright.passes.attention')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_registered_pass_is_usable_by_name():
    register_pass("mine")(Offered)
    assert Offered.name == "mine"
    assert Pipeline("mine{times=2}").passes == (Offered(times=2),)
    assert "mine" in pass_names()
    assert describe("mine").options == ("times=1",)


def test_a_name_is_taken_once():
    register_pass("mine")(Offered)

    @dataclass(frozen=True)
    class Another(Pass):
        pass

    with pytest.raises(PipelineError, match="'mine' is registered already"):
        register_pass("mine")(Another)
    assert find_pass("mine") is Offered
    register_pass("mine", replace=True)(Another)
    assert find_pass("mine") is Another


def test_the_same_definition_may_be_registered_again():
    """As happens when a module is reloaded or a notebook cell run twice."""
    register_pass("mine")(Offered)
    register_pass("mine")(Offered)
    register_pass("function")(offered_function)
    register_pass("function")(offered_function)


def test_equal_names_in_two_modules_are_two_passes():
    other = type("Offered", (Pass,), {"__module__": "elsewhere"})
    register_pass("mine")(Offered)
    with pytest.raises(PipelineError, match="registered already"):
        register_pass("mine")(other)


@pytest.mark.parametrize("name", ["canonicalize", "default", "repeat"])
def test_names_of_our_own_are_taken(name):
    with pytest.raises(PipelineError, match="registered already"):
        register_pass(name)(Offered)


@pytest.mark.parametrize("name", ["", "two words", "a,b", "a{b", "a(b)", 'a"'])
def test_a_name_must_be_writable_in_a_pipeline(name):
    with pytest.raises(PipelineError, match="cannot be the name of a pass"):
        register_pass(name)


@pytest.mark.parametrize("thing", [3, "text", dict])
def test_only_passes_rules_and_functions_register(thing):
    with pytest.raises(PipelineError, match="neither a Pass class"):
        register_pass("thing")(thing)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(PipelineError) as caught:
        Pipeline("canonicalise")
    assert "there is no pass named 'canonicalise'" in str(caught.value)
    assert "did you mean 'canonicalize'?" in str(caught.value)


def test_a_function_has_no_options():
    register_pass("function")(offered_function)
    assert isinstance(find_pass("function"), FunctionPass)
    assert str(Pipeline("function")) == "function"
    with pytest.raises(PipelineError, match="no options"):
        Pipeline("function{x=1}")


@pytest.mark.parametrize("rule", [DoubleNegation, DoubleNegation()])
def test_a_rule_registers_as_a_pass(trace, rule):
    register_pass("double-negation")(rule)
    made = trace(lambda x: x.neg().neg() + 1, torch.ones(2))
    result = Pipeline("canonicalize,double-negation").run(made)
    assert str(Pipeline("double-negation")) == "double-negation"
    assert describe("double-negation").summary == "Neg(neg(x)) -> x."
    assert [len(record.rewrites) for record in result.trace.records][1] == 1
    assert torch.equal(result.program.run(torch.ones(2)), torch.full((2,), 2.0))


# ---- other packages --------------------------------------------------------------------------


def test_a_pass_of_another_package_is_found(offered):
    offered(from_afar=f"{__name__}:Offered")
    assert "from-afar" in pass_names()
    (made,) = Pipeline("from-afar{times=3}").passes
    assert type(made).__name__ == "Offered"
    assert str(made) == "from-afar{times=3}"


def test_a_function_of_another_package_is_found(offered):
    offered(from_afar=f"{__name__}:offered_function")
    assert describe("from-afar").summary == "Touch nothing."


def test_listing_does_not_import(offered):
    offered(broken="no_such_module:Thing")
    assert "broken" in pass_names()


@pytest.mark.parametrize(
    ("path", "reason"),
    [("no_such_module:Thing", "ModuleNotFoundError"), (f"{__name__}:NoSuchClass", "AttributeError")],
)
def test_a_broken_entry_point_says_whose(offered, path, reason):
    offered(broken=path)
    with pytest.raises(PipelineError) as caught:
        Pipeline("broken")
    assert "the pass 'broken' cannot be imported" in str(caught.value)
    assert f"at: {path}" in str(caught.value)
    assert reason in str(caught.value)


def test_an_entry_point_to_something_else_is_refused(offered):
    offered(odd=f"{__name__}:__name__")
    with pytest.raises(PipelineError, match="neither a Pass class"):
        Pipeline("odd")


def test_built_in_names_win_over_other_packages(offered):
    offered(canonicalize=f"{__name__}:Offered")
    assert find_pass("canonicalize").__name__ == "Canonicalize"
    assert pass_names().count("canonicalize") == 1
