from __future__ import annotations

import pytest

from graphwright.ir.errors import PassError, PatternError
from graphwright.passes.patterns import Rule, any_of, aten, maybe, number, ops


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (lambda x: aten.sofmax(x, -1), "did you mean aten.softmax"),
        (lambda x: ops.quantized.add_rel(x), "did you mean quantized.add_relu"),
        (lambda x: aten.softmax.ints(x, -1), "no overload 'ints'"),
        (lambda x: aten.relu(x, slope=2), "no argument 'slope'"),
        (lambda x: aten.relu(x, 2), "takes 1 positional arguments, given 2"),
        (lambda x: aten.softmax(x), "'dim' is missing"),
        (lambda x: aten.softmax(x, -1, dim=1), "'dim' is given twice"),
        (lambda x: aten.softmax(x, [0.5]), "cannot be called"),
        (lambda x: x, "root of a pattern must be an op"),
        (lambda x: maybe(lambda y: aten.relu(y), x), "root of a pattern must be an op"),
        (lambda x, y: aten.relu(x), "capture 'y' is not used"),
        (lambda root: aten.relu(root), "cannot be called 'root'"),
        (lambda x: [aten.relu(x)], "must return an expression"),
        (lambda x, y: (aten.relu(x), aten.neg(y)), "shares no capture"),
        (lambda x: any_of(aten.relu(x)), "at least two"),
    ],
)
def test_a_wrong_pattern_fails_when_the_rule_is_defined(one_off, pattern, message):
    with pytest.raises(PatternError, match="OneOff") as error:
        one_off(pattern)
    assert message in str(error.value)


def test_a_pattern_knows_its_text_captures_and_roots(one_off):
    rule = one_off(lambda x, w: aten.mul(aten.softmax(x, dim=-1).named("p"), any_of(w, number(0.5))))
    assert rule.compiled.text.text == "mul(p=softmax(x, dim=-1), (w | number<0.5>))"
    assert set(rule.compiled.captures) == {"x", "w", "p"}
    assert {str(target) for target in rule.compiled.roots} >= {"aten.mul.Tensor", "aten.mul.Scalar"}


def test_a_repeated_expression_is_written_once(one_off):
    def pattern(x):
        h = aten.relu(x)
        scaled = any_of(aten.mul(h, 2), h)
        return aten.add(maybe(lambda y: aten.neg(y), scaled), aten.exp(h))

    text = one_off(pattern).compiled.text
    assert text.text == "add(neg((mul($1=relu(x), 2) | $1))?, exp($1))"
    assert {text.text[slice(*span)] for span in text.spans.values()} >= {"relu(x)", "(mul($1=relu(x), 2) | $1)", "2"}


def test_rules_can_share_a_base_and_read_class_attributes():
    class Activation(Rule):
        op = aten.relu

        def pattern(self, x):
            return self.op(x)

    class Gelu(Activation):
        op = aten.gelu

    assert Activation.compiled.text.text == "relu(x)"
    assert Gelu.compiled.text.text == "gelu(x)"


def test_a_rule_without_rewrite_says_so(one_off):
    with pytest.raises(PassError, match="only finds"):
        one_off(lambda x: aten.relu(x))().rewrite(None, None)
