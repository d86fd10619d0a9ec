"""Bundle: the artifacts that one model became, in one folder with one manifest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graphwright.ir.errors import FileFormatError, GraphwrightError
from graphwright.lowering.artifact import Artifact, checked_manifest, save_folder


class Bundle:
    """The parts of a model, such as its encoder and its decoder, lowered for a task.

    Args:
        task: What the model was exported for, such as `text2text-generation-with-past`.
        parts: Artifacts by name: `model`, or `encoder_model`, `decoder_model`, `decoder_with_past_model`.
        details: Further entries of the manifest, such as the report on precision.
    """

    def __init__(self, task: str, parts: Mapping[str, Artifact], details: Mapping[str, Any] | None = None) -> None:
        self.task, self.parts, self.details = task, dict(parts), dict(details or {})

    @property
    def only(self) -> Artifact:
        """The artifact of a bundle that has one part.

        Raises:
            GraphwrightError: It has several.
        """
        if len(self.parts) != 1:
            raise GraphwrightError(
                f"the folder holds {len(self.parts)} artifacts: {', '.join(self.parts)}",
                remedies=["load it with graphwright.load_artifact, which runs them together"],
            )
        return next(iter(self.parts.values()))

    def save(self, folder: str | Path, extras: Callable[[Path], None] = lambda folder: None) -> Path:
        """Write all parts; an existing artifact in `folder` is replaced in one step.

        Args:
            folder: Where to.
            extras: Writes what else belongs into the folder, such as `config.json`.

        Raises:
            FileExistsError: `folder` exists and is not an artifact.
        """

        def write(place: Path) -> dict[str, Any]:
            parts = {name: {"target": part.target} | part.write_part(place, name) for name, part in self.parts.items()}
            extras(place)
            target = next(iter(self.parts.values())).target
            return {"target": target, "task": self.task, "parts": parts, "details": self.details}

        return save_folder(folder, write)


def load_bundle(folder: str | Path) -> Bundle:
    """Read what `Bundle.save` wrote.

    Raises:
        FileFormatError: A file is missing, truncated or changed, or the manifest is not that of a bundle.
        GraphwrightError: The target is not known here.
    """
    from graphwright.lowering.registry import find_target
    from graphwright.passes.spec import parse_call

    folder = Path(folder)
    manifest = checked_manifest(folder)
    try:
        target = find_target(parse_call(manifest["target"]).name)
        parts = target.load_parts(folder, manifest["parts"])
        return Bundle(str(manifest["task"]), parts, manifest.get("details"))
    except (KeyError, TypeError, AttributeError) as error:
        raise FileFormatError("the manifest is not that of a bundle", at=str(folder), why=repr(error)) from error
