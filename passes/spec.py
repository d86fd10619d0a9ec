r"""The text form of pipelines and targets: `canonicalize,fuse-attention{expect=all},repeat{times=3}(a,b)`.

spec    := call ("," call)*
call    := name [ "{" option ("," option)* "}" ] [ "(" spec ")" ]
option  := key "=" value
value   := int | float | true | false | none | word | quoted string, with \ before a quote or \ in it
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from dataclasses import dataclass, field
from typing import Any

from graphwright.ir.errors import PipelineError

_WORD = r"[\w.+:/-]+"
_STRING = r""" "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*' """
_KINDS = rf"(?P<string>{_STRING}) | (?P<word>{_WORD}) | (?P<mark>[{{}}(),=])"
_TOKEN = re.compile(rf"\s*(?:{_KINDS})", re.VERBOSE | re.DOTALL)


@dataclass(frozen=True)
class Call:
    """One parsed call: a name, its options as text or literals, and the calls in its parentheses."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    body: tuple[Call, ...] = ()


def parse_spec(text: str) -> tuple[Call, ...]:
    """Parse a comma-separated list of calls.

    Raises:
        PipelineError: The text is not well formed; shows where.
    """
    parser = _Parser(text)
    calls = parser.calls()
    parser.end()
    return calls


def parse_call(text: str) -> Call:
    """Parse exactly one call, such as `onnx{opset=23}`."""
    calls = parse_spec(text)
    if len(calls) != 1:
        raise PipelineError(f"expected one name, found {len(calls)} in '{text}'")
    return calls[0]


def print_call(instance: Any, name: str | None = None) -> str:
    """The text of a frozen dataclass: its name and the options that differ from their defaults."""
    options = []
    for item in dataclasses.fields(instance):
        value = getattr(instance, item.name)
        if value != item.default and item.metadata.get("spec", True):
            options.append(f"{item.name}={_print_value(value)}")
    label = name or type(instance).name or type(instance).__name__
    return label + ("{" + ",".join(options) + "}" if options else "")


def build(cls: type[Any], call: Call) -> Any:
    """Make an instance of a frozen dataclass from a call, its options checked against the fields.

    Raises:
        PipelineError: An option is unknown or has the wrong kind; names the known ones.
    """
    hints = typing.get_type_hints(cls)
    known = {item.name for item in dataclasses.fields(cls) if item.metadata.get("spec", True)}
    for key, value in call.options.items():
        if key not in known:
            raise PipelineError(
                f"'{call.name}' has no option '{key}'", why=f"it has {', '.join(sorted(known)) or 'no options'}"
            )
        if not _fits(value, hints[key]):
            raise PipelineError(
                f"option '{key}' of '{call.name}' cannot be {value!r}", why=f"it is {_kind(hints[key])}"
            )
    values = {key: _coerce(value, hints[key]) for key, value in call.options.items()}
    return cls(**values)


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in typing.get_args(hint))
    if origin is typing.Literal:
        return any(type(value) is type(choice) and value == choice for choice in typing.get_args(hint))
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(hint, type) and isinstance(value, hint)


def _coerce(value: Any, hint: Any) -> Any:
    """Integers where a float is meant become floats."""
    kinds = typing.get_args(hint) or (hint,)
    is_int = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if is_int and float in kinds and int not in kinds else value


def _kind(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    return getattr(hint, "__name__", str(hint))


def _print_value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and (not is_word(value) or _literal(value) != value):
        return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'
    return str(value)


def is_word(text: str) -> bool:
    """Whether a text can stand in a spec without quotes, as the name of a pass must."""
    return re.fullmatch(_WORD, text) is not None


def _literal(word: str) -> Any:
    named = {"true": True, "false": False, "none": None}
    if word in named:
        return named[word]
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


class _Parser:
    """Recursive descent over the tokens of a spec."""

    def __init__(self, text: str) -> None:
        self.text, self.position = text, 0
        self.kind, self.token = "", ""
        self._advance()

    def _advance(self) -> None:
        if not self.text[self.position :].strip():
            self.start, self.kind, self.token = len(self.text), "end", ""
            self.position = len(self.text)
            return
        match = _TOKEN.match(self.text, self.position)
        if match is None:
            rest = self.text[self.position :]
            self.start = self.position + len(rest) - len(rest.lstrip())
            self._fail("unexpected character")
            return
        self.start, self.position = match.start(match.lastgroup or 0), match.end()
        self.kind, self.token = str(match.lastgroup), str(match.group(str(match.lastgroup)))

    def _fail(self, reason: str) -> typing.NoReturn:
        raise PipelineError(f"cannot read '{self.text}'", why=f"{reason}\n  {self.text}\n  {' ' * self.start}^")

    def _take(self, mark: str) -> bool:
        if self.kind == "mark" and self.token == mark:
            self._advance()
            return True
        return False

    def _expect(self, mark: str) -> None:
        if not self._take(mark):
            self._fail(f"expected '{mark}'")

    def end(self) -> None:
        if self.kind != "end":
            self._fail("expected ',' or the end")

    def calls(self) -> tuple[Call, ...]:
        calls = [self.call()]
        while self._take(","):
            calls.append(self.call())
        return tuple(calls)

    def call(self) -> Call:
        name = self._word("a name")
        options = self._options() if self._take("{") else {}
        body: tuple[Call, ...] = ()
        if self._take("("):
            body = self.calls()
            self._expect(")")
        return Call(name, options, body)

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {}
        while not self._take("}"):
            if self.token in options:
                self._fail(f"option '{self.token}' is given twice")
            key = self._word("an option")
            self._expect("=")
            options[key] = self._value()
            if not self._take(","):
                self._expect("}")
                break
        return options

    def _word(self, what: str) -> str:
        if self.kind != "word":
            self._fail(f"expected {what}")
        word = self.token
        self._advance()
        return word

    def _value(self) -> Any:
        if self.kind == "string":
            text = re.sub(r"\\(.)", r"\1", self.token[1:-1], flags=re.DOTALL)
            self._advance()
            return text
        return _literal(self._word("a value"))
