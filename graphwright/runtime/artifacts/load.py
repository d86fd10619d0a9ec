"""`load_artifact`: what `export` or `Artifact.save` wrote, ready to run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphwright.lowering.artifact import load_artifact as load_one
from graphwright.lowering.artifact import read_manifest
from graphwright.lowering.bundle import load_bundle


def load_artifact(folder: str | Path, *, providers: Sequence[Any] | None = None, session_options: Any = None) -> Any:
    """Read an exported model.

    A folder with a transformers `config.json` gives an object of the model's own class, without weights, whose
    `forward` and `generate` run the artifact, and whose parts are in `bundle.parts`. Other folders give the `Artifact`.

    Args:
        folder: What `graphwright.export` or `Artifact.save` wrote.
        providers: Execution providers, for targets that run on ONNX Runtime.
        session_options: Its session options.

    Raises:
        FileFormatError: A file is missing, truncated or changed, or the manifest is not one.
        GraphwrightError: The target is not known here.
    """
    folder = Path(folder)
    loaded: Any
    if "parts" in read_manifest(folder) and (folder / "config.json").exists():
        from graphwright.runtime.artifacts.model import artifact_model

        loaded = artifact_model(load_bundle(folder), folder)
    else:
        loaded = load_one(folder)
    if providers or session_options:
        loaded.configure(providers=providers, session_options=session_options)
    return loaded
