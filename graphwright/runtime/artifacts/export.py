"""`export`: a model lowered for its task, compared with the unmodified model, and saved."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from graphwright.frontends.capture import capture
from graphwright.frontends.tasks import is_pretrained
from graphwright.ir.diff import GraphDiff
from graphwright.ir.errors import InputError
from graphwright.ir.program import Program
from graphwright.lowering.accuracy import Accuracy, accuracy
from graphwright.lowering.artifact import Artifact
from graphwright.lowering.bundle import Bundle
from graphwright.lowering.compare import Comparison, compare
from graphwright.lowering.interface import Interface
from graphwright.lowering.registry import target as find_target
from graphwright.lowering.support import SupportReport
from graphwright.lowering.target import Target
from graphwright.passes.pipeline import Pipeline
from graphwright.runtime.artifacts.tokenizers import save_tokenizer

logger = logging.getLogger("graphwright")
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Piece:
    """One part on its way: what it is compared with, and its rewritten program."""

    name: str
    reference: Any
    program: Program


@dataclass(frozen=True)
class Export:
    """What `export` did.

    Args:
        bundle: The artifacts, by part.
        support: Part -> what the target said to it.
        comparisons: Part -> comparison with the unmodified model, for lower precision an accuracy report; empty if
            none was asked for.
        deployed: Part -> largest difference at the precision that the device chooses by itself, where that is another.
        edits: Part -> what `edits` changed in the graph that was emitted.
    """

    bundle: Bundle
    support: dict[str, SupportReport]
    comparisons: dict[str, Comparison | Accuracy]
    deployed: dict[str, float] = field(default_factory=dict)
    edits: dict[str, GraphDiff] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return all(comparison.ok for comparison in self.comparisons.values())

    def __str__(self) -> str:
        lines = [str(report) for report in self.support.values()]
        alone = len(self.comparisons) == 1
        lines += [
            f"{comparison}" if alone else f"{name}\n{comparison}" for name, comparison in self.comparisons.items()
        ]
        lines += [f"{name} edited\n{found}" for name, found in self.edits.items()]
        lines += [f"{name}: largest difference as deployed {found:.2e}" for name, found in self.deployed.items()]
        return "\n".join(lines)


def export(
    model: Any,
    folder: str | Path,
    target: str | Target = "onnx",
    *,
    task: str | None = None,
    inputs: Any = None,
    dynamic: Any = "auto",
    pipeline: str = "default",
    last_logits: bool = False,
    edits: Sequence[Callable[[Any], Any]] = (),
    verify: bool = True,
    raise_on_mismatch: bool = True,
    progress: Progress = lambda text: None,
) -> Export:
    """Capture, rewrite, lower, compare with the unmodified model, and save.

    Args:
        model: A transformers model, any other module, or a `Program`.
        folder: Where to; an existing artifact there is replaced in one step, after everything else went well.
        target: Such as `onnx{opset=23}`.
        task: For a transformers model: such as `fill-mask` or `text-generation-with-past`. By default that of its
            class, with a cache where it generates.
        inputs: Example inputs, for models that are not from transformers.
        dynamic: See `capture`; used together with `inputs`.
        pipeline: Passes to run on each part.
        last_logits: For text generation: only the logits of the last position, all that `generate` reads.
        edits: Functions of an onnx-graphsurgeon graph, run on each part after everything else; for ONNX only.
        verify: Compare each part with the unmodified model on several shapes, paddings and cache lengths.
        raise_on_mismatch: Raise, rather than only report; nothing is written either way.
        progress: Told what is being done.

    Raises:
        UnsupportedError: Lists every call that the target cannot express.
        MismatchError: A part computes something else; nothing was written.
        CaptureError: The model cannot be captured.
    """
    goal = find_target(target)
    artifacts: dict[str, Artifact] = {}
    reports: dict[str, SupportReport] = {}
    comparisons: dict[str, Comparison | Accuracy] = {}
    references: dict[str, Any] = {}
    changes: dict[str, GraphDiff] = {}
    exact_interfaces: dict[str, Interface] = {}
    for piece in pieces(model, task, inputs, dynamic, pipeline, progress, last_logits):
        progress(f"lowering {piece.name}")
        reports[piece.name], artifacts[piece.name] = goal.check_and_lower(piece.program)
        if edits:
            artifacts[piece.name], changes[piece.name] = _edited(artifacts[piece.name], edits)
        references[piece.name] = piece.reference
        exact_interfaces[piece.name] = Interface.of(piece.program)
    bundle = Bundle(_task(model, task), goal.join(artifacts), {"last logits": True} if last_logits else {})
    for name, artifact in bundle.parts.items() if verify else ():
        progress(f"comparing {name}")
        if goal.precision:
            exact = exact_interfaces[name]
            comparisons[name] = _accuracy(references[name], artifact, exact, goal.precision, raise_on_mismatch)
        else:
            comparisons[name] = compare(references[name], artifact, raise_on_mismatch=raise_on_mismatch)
    deployed = _deployed(references, bundle) if verify else {}
    bundle.details |= {"difference as deployed": deployed} if deployed else {}
    reports_of_accuracy = {n: c.facts() for n, c in comparisons.items() if isinstance(c, Accuracy)}
    bundle.details |= {"accuracy": reports_of_accuracy} if reports_of_accuracy else {}
    done = Export(bundle, reports, comparisons, deployed, changes)
    if done.ok:
        progress("writing")
        bundle.save(folder, lambda place: _save_config(model, place, goal.name))
    return done


def _edited(artifact: Any, edits: Sequence[Callable[[Any], Any]]) -> tuple[Artifact, GraphDiff]:
    """The artifact after the edits; it is compared with the unmodified model like any other."""
    from graphwright.lowering.onnx.graphsurgeon import edit

    done = edit(artifact, *edits, verify=False)
    return done.artifact, done.diff


def _deployed(references: dict[str, Any], bundle: Bundle) -> dict[str, float]:
    """Part -> largest difference of artifacts that compute less exactly than they were compared."""
    found = {name: part.as_deployed() for name, part in bundle.parts.items()}
    return {
        name: compare(references[name], part, raise_on_mismatch=False).largest_difference
        for name, part in found.items()
        if part is not None
    }


def _accuracy(reference: Any, artifact: Any, exact: Interface, precision: str, fatal: bool) -> Accuracy:
    found = accuracy(reference, artifact.runnable(), exact, precision)
    if fatal:
        found.raise_if_wrong()
    return found


def verify_bundle(model: Any, bundle: Bundle) -> dict[str, Comparison]:
    """Compare each part of a bundle with the unmodified model.

    Raises:
        InputError: The model has other parts than the bundle.
    """
    references: dict[str, Any] = {"model": model}
    if is_pretrained(model) or _is_embedder(model):
        from graphwright.frontends.parts import parts

        last = bool(bundle.details.get("last logits"))
        references = {part.name: part.module for part in parts(model, bundle.task or None, last_logits=last)}
    missing = [name for name in bundle.parts if name not in references]
    if missing:
        raise InputError(
            f"the model has no {missing[0]}", why=f"its parts for '{bundle.task}' are {', '.join(references)}"
        )
    return {name: compare(references[name], part, raise_on_mismatch=False) for name, part in bundle.parts.items()}


def support(model: Any, target: str | Target, *, pipeline: str = "default", **options: Any) -> dict[str, SupportReport]:
    """What a target says to each part of a model, before anything is lowered; the options are those of `export`."""
    goal = find_target(target)
    given = {key: options.get(key, default) for key, default in _DEFAULTS.items()}
    found = pieces(model, pipeline=pipeline, **given)
    return {piece.name: goal.check(piece.program) for piece in found}


_DEFAULTS: dict[str, Any] = {"task": None, "inputs": None, "dynamic": "auto", "last_logits": False}
_DEFAULTS["progress"] = lambda text: None


def pieces(
    model: Any,
    task: str | None,
    inputs: Any,
    dynamic: Any,
    pipeline: str,
    progress: Progress,
    last_logits: bool = False,
) -> Iterator[Piece]:
    """The parts of a model, captured and rewritten."""
    for name, reference, program in _captured(model, task, inputs, dynamic, progress, last_logits):
        progress(f"rewriting {name}")
        yield Piece(name, reference, Pipeline(pipeline).run(program, validate=False).program)


def _captured(
    model: Any, task: str | None, inputs: Any, dynamic: Any, progress: Progress, last_logits: bool
) -> Iterator[tuple[str, Any, Program]]:
    if inputs is not None or not (is_pretrained(model) or _is_embedder(model)):
        if last_logits:
            raise InputError("last_logits is for transformers models that generate, without inputs of your own")
        progress("capturing")
        yield "model", model, capture(model, inputs, dynamic=dynamic, task=task)
        return
    from graphwright.frontends.parts import parts

    for part in parts(model, task, last_logits=last_logits):
        progress(f"capturing {part.name}")
        yield part.name, part.module, part.capture()


def _is_embedder(model: Any) -> bool:
    return type(model).__name__ == "SentenceEmbedder"


def _task(model: Any, task: str | None) -> str:
    if not (is_pretrained(model) or _is_embedder(model)):
        return task or ""
    from graphwright.frontends.parts import full_task

    return full_task(model, task)


@torch.no_grad()
def _save_config(model: Any, folder: Path, target: str) -> None:
    """`config.json` and `generation_config.json`, which loaders find the class and settings in, and the tokenizer.

    For sentence embeddings, those of the transformers model inside.
    """
    model = model.transformer if _is_embedder(model) else model
    if not is_pretrained(model):
        return
    config = type(model.config).from_dict(model.config.to_dict())
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    if getattr(model, "generation_config", None) is not None and model.can_generate():
        model.generation_config.save_pretrained(folder)
    save_tokenizer(model, folder, target)
