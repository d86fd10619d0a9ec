"""A counterexample as a script that shows it with torch alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from graphwright.ir.encoding import Encoded
from graphwright.ir.record import NodeRecord
from graphwright.passes.validation.check import Counterexample, _number
from graphwright.passes.validation.execute import widened
from graphwright.passes.validation.leaves import Draw

_INLINE = 64


def script(found: Counterexample) -> str:
    """Python source that runs both sides on the inputs of a counterexample and prints them."""
    region, rewrite = found.region, found.region.rewrite
    old, new = [pair[0] for pair in region.pairs], [pair[1] for pair in region.pairs]
    inputs = {name: value for name, value in found.inputs.items() if value is not None}
    names = ", ".join(inputs)
    lines = [
        f'"""{rewrite.pass_name}, rule {rewrite.rule}, at {rewrite.site or "the model itself"} ({rewrite.source}).',
        "",
        f"{found.trial.label}, sizes {dict(found.trial.sizes)}: %{found.value}: {found.reason}",
        '"""',
        "",
        "import operator",
        "",
        "import torch",
        "",
        "from graphwright.passes.validation.leaves import Draw",
        "",
        *_inputs(inputs, found.trial.wide),
        "",
        "",
        *_function("before", names, region.order(region.before, old), old, found),
        "",
        "",
        *_function("after", names, region.order(region.after, new), new, found),
        "",
        "",
        f"for old, new in zip(before({names}), after({names})):",
        "    print(old, new, sep='\\n', end='\\n\\n')",
    ]
    return "\n".join(lines) + "\n"


def _function(
    name: str, inputs: str, nodes: Iterable[NodeRecord], results: list[str], found: Counterexample
) -> list[str]:
    calls = [node for node in nodes if node.name not in found.inputs]
    body = [f"    {node.name} = {_call(node, found.trial.wide)}  # {node.type}" for node in calls]
    known = {*found.inputs, *(node.name for node in calls)}
    returned = ", ".join(result if result in known else repr(_number(result)) for result in results)
    return [f"def {name}({inputs}):", *body, f"    return [{returned}]"]


def _call(node: NodeRecord, wide: bool) -> str:
    args = [_text(value, wide) for value in node.args]
    args += [f"{key}={_text(value, wide)}" for key, value in node.kwargs]
    return f"{_target(node.target)}({', '.join(args)})"


def _target(target: str) -> str:
    for prefix, shown in (("_operator.", "operator."), ("builtins.", ""), ("torch.", "torch."), ("math.", "math.")):
        if target.startswith(prefix):
            return shown + target.removeprefix(prefix)
    return f"torch.ops.{target}"


def _inputs(inputs: dict[str, Any], wide: bool) -> list[str]:
    return [f"{name} = {_input(value, wide)}" for name, value in inputs.items()]


def _input(value: Any, wide: bool) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(_input(part, wide) for part in value)},)"
    if isinstance(value, Draw):
        infinite = value.lowest == float("-inf")
        text = repr(value).replace("lowest=-inf", "lowest=float('-inf')") if infinite else repr(value)
        return text + ".tensor()" + (".double()" if wide and value.dtype.is_floating_point else "")
    if not isinstance(value, torch.Tensor):
        return repr(value)
    dtype = widened(value.dtype) if wide else value.dtype
    if value.numel() > _INLINE:
        return f"torch.zeros({list(value.shape)}, dtype={dtype})  # put the model's own constant here"
    return f"torch.tensor({value.tolist()}, dtype={dtype})".replace("inf", "float('inf')").replace(
        "nan", "float('nan')"
    )


def _text(encoded: Encoded, wide: bool) -> str:
    """An encoded argument as Python source."""
    if encoded is None or isinstance(encoded, (int, str)):
        return str(encoded)
    tag, *items = encoded
    if tag in ("list", "tuple"):
        return f"[{', '.join(_text(item, wide) for item in items)}]"
    if tag == "slice":
        return f"slice({', '.join(_text(item, wide) for item in items)})"
    if tag == "dtype":
        dtype = getattr(torch, items[0])
        return str(widened(dtype) if wide else dtype)
    if tag == "ellipsis":
        return "..."
    texts = {"bool": items[0].capitalize(), "str": repr(items[0]), "device": "'cpu'"}
    if tag == "float":
        return items[0] if items[0].lstrip("-") not in ("inf", "nan") else f"float('{items[0]}')"
    return texts.get(tag, f"torch.{items[0]}" if tag in ("layout", "memory_format") else repr(encoded))
