"""Pipeline text: what is printed parses back to the same, and mistakes are pointed at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphwright.ir.errors import PipelineError
from graphwright.passes.base import Pass
from graphwright.passes.pipeline import Pipeline, Repeat
from graphwright.passes.registry import register_pass
from graphwright.passes.spec import Call, parse_call, parse_spec


@register_pass("every-option")
@dataclass(frozen=True)
class EveryOption(Pass):
    """A pass with one option of each kind."""

    count: int = 1
    ratio: float = 0.5
    flag: bool = False
    word: str = "plain"
    choice: Literal["any", "all", "none", "1", 2] = "any"
    limit: int | None = None
    share: float | None = 0.25

    def apply(self, program, rewriter):
        pass


@register_pass("no-option")
@dataclass(frozen=True)
class NoOption(Pass):
    """A pass without options."""

    def apply(self, program, rewriter):
        pass


floats = st.floats(allow_nan=False)
options = st.builds(
    EveryOption,
    count=st.integers(),
    ratio=floats,
    flag=st.booleans(),
    word=st.text(),
    choice=st.sampled_from(["any", "all", "none", "1", 2]),
    limit=st.none() | st.integers(),
    share=st.none() | floats,
)
leaves = options | st.just(NoOption())
trees = st.recursive(
    leaves,
    lambda inner: st.builds(Repeat, times=st.integers(1, 99), body=st.lists(inner, min_size=1, max_size=3).map(tuple)),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(trees, max_size=4))
def test_what_is_printed_parses_to_the_same_passes(passes):
    pipeline = Pipeline(passes)
    again = Pipeline(str(pipeline))
    assert again == pipeline
    assert hash(again) == hash(pipeline)
    assert str(again) == str(pipeline)
    assert [type(p) for p in again.passes] == [type(p) for p in passes]


@settings(max_examples=200, deadline=None)
@given(options)
def test_values_keep_their_kinds(made):
    (again,) = Pipeline(str(made)).passes
    for name in ("count", "ratio", "flag", "word", "choice", "limit", "share"):
        assert type(getattr(again, name)) is type(getattr(made, name))


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab{}(),= '\"\\1.-\n", max_size=20))
def test_any_text_parses_or_is_refused_with_a_caret(text):
    try:
        parse_spec(text)
    except PipelineError as error:
        assert str(error).splitlines()[-1].strip() == "^"


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("a", (Call("a"),)),
        (" a , b ", (Call("a"), Call("b"))),
        ("a{}", (Call("a"),)),
        ("a{x=1,y=2.5,z=word}", (Call("a", {"x": 1, "y": 2.5, "z": "word"}),)),
        ("a{x=true,y=false,z=none}", (Call("a", {"x": True, "y": False, "z": None}),)),
        ("a{x='true',y=\"1\",z=''}", (Call("a", {"x": "true", "y": "1", "z": ""}),)),
        ("a{x='it''s'}", None),
        (r"a{x='it\'s \\ \"'}", (Call("a", {"x": "it's \\ \""}),)),
        ("a{x=-1e-5,y=1e3,z=inf}", (Call("a", {"x": -1e-5, "y": 1e3, "z": float("inf")}),)),
        ("repeat{times=3}(a,b{x=1})", (Call("repeat", {"times": 3}, (Call("a"), Call("b", {"x": 1}))),)),
        ("repeat(repeat(a))", (Call("repeat", {}, (Call("repeat", {}, (Call("a"),)),)),)),
        ("onnx:v1/2+cpu", (Call("onnx:v1/2+cpu"),)),
    ],
)
def test_parsing(text, want):
    if want is None:
        with pytest.raises(PipelineError):
            parse_spec(text)
    else:
        assert parse_spec(text) == want


@pytest.mark.parametrize(
    ("text", "reason", "column"),
    [
        ("", "expected a name", 0),
        ("a,", "expected a name", 2),
        (",a", "expected a name", 0),
        ("a b", "expected ',' or the end", 2),
        ("a{x}", "expected '='", 3),
        ("a{x=}", "expected a value", 4),
        ("a{x=1", "expected '}'", 5),
        ("a{x=1,x=2}", "option 'x' is given twice", 6),
        ("a{=1}", "expected an option", 2),
        ("repeat(a", "expected ')'", 8),
        ("repeat()", "expected a name", 7),
        ("a,  %", "unexpected character", 4),
        ("a{x='open}", "unexpected character", 4),
        ("a)", "expected ',' or the end", 1),
        ("'a'", "expected a name", 0),
    ],
)
def test_mistakes_are_pointed_at(text, reason, column):
    with pytest.raises(PipelineError) as caught:
        parse_spec(text)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"cannot read '{text}'"
    assert reason in lines[1]
    assert lines[2] == f"  {text}"
    assert lines[3] == "  " + " " * column + "^"


def test_one_call_means_one():
    assert parse_call("onnx{opset=23}") == Call("onnx", {"opset": 23})
    with pytest.raises(PipelineError, match="expected one name, found 2"):
        parse_call("a,b")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("every-option{cuont=1}", "has no option 'cuont'"),
        ("every-option{count=1.5}", "option 'count' of 'every-option' cannot be 1.5"),
        ("every-option{count=true}", "it is int"),
        ("every-option{count=none}", "cannot be None"),
        ("every-option{ratio=true}", "it is float"),
        ("every-option{ratio=x}", "cannot be 'x'"),
        ("every-option{flag=1}", "it is bool"),
        ("every-option{word=1}", "it is str"),
        ("every-option{choice=some}", "it is one of any, all, none, 1, 2"),
        ("every-option{choice=none}", "cannot be None"),
        ("every-option{limit=x}", "cannot be 'x'"),
        ("no-option{x=1}", "it has no options"),
        ("no-option(every-option)", "only repeat does"),
        ("repeat{tmes=3}(no-option)", "has no option 'tmes'"),
        ("repeat{times=many}(no-option)", "cannot be 'many'"),
        ("repeat{body=x}(no-option)", "has no option 'body'"),
        ("repeat", "repeat needs passes in parentheses"),
    ],
)
def test_options_are_checked_against_the_fields(text, reason):
    with pytest.raises(PipelineError) as caught:
        Pipeline(text)
    assert reason in str(caught.value)


def test_only_what_differs_from_the_defaults_is_printed():
    assert str(EveryOption(count=1, word="plain")) == "every-option"
    assert str(EveryOption(ratio=2, choice="all", limit=3)) == "every-option{ratio=2,choice=all,limit=3}"
    assert str(EveryOption(word="two words", share=None)) == 'every-option{word="two words",share=none}'


def test_an_integer_is_a_float_where_one_is_meant():
    (made,) = Pipeline("every-option{ratio=2,share=3,limit=4}").passes
    assert (made.ratio, made.share, made.limit) == (2.0, 3.0, 4)
    assert [type(v) for v in (made.ratio, made.share, made.limit)] == [float, float, int]
