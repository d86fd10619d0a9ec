"""Who may import whom, as docs/design.md says: walks the imports of every file without running any."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

TORCH = {"torch", "sympy"}  # symbolic sizes are sympy expressions
FOREIGN = {
    "ir": TORCH | {"networkx", "safetensors"},
    "passes": TORCH | {"networkx", "neural_compressor", "numpy", "rich", "triton"},
    "lowering": TORCH
    | {"ai_edge_litert", "flatbuffers"}
    | {"jax", "jaxlib", "google", "safetensors", "torch_neuronx"}
    | {"onnx", "onnx_ir", "onnxruntime", "onnx_graphsurgeon", "openvino", "numpy", "rich", "triton"},
    "frontends": TORCH | {"transformers", "safetensors", "numpy", "onnx_ir", "onnxruntime"},
}
LAYERS = {
    "ir": {"ir"},
    "passes": {"ir", "passes"},
    "lowering": {"ir", "passes", "lowering"},
    "frontends": {"ir", "frontends"},
}
LAZY = {
    "ai_edge_litert",
    "jax",
    "jaxlib",
    "neural_compressor",
    "transformers",
    "onnx",
    "onnx_ir",
    "onnx_graphsurgeon",
    "onnxruntime",
    "openvino",
    "networkx",
    "rich",
}

# Emitter tables are written in the vendor's terms; `target.py` imports them inside functions, when the target is used.
EMITTERS = {
    "lowering/neuron": {"jax", "jaxlib"},
    "lowering/onnx": {"onnx_ir"},
    "lowering/openvino": {"openvino"},
    "lowering/tflite": {"ai_edge_litert"},
    "frontends/onnx": {"onnx_ir"},
}

FILES = [path.relative_to(ROOT) for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def imports(path: Path) -> list[tuple[str, int, bool]]:
    """(module, line, at import time) of each import; those under TYPE_CHECKING do not count."""
    found = []

    def visit(node: ast.AST, at_import: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.extend((name.name, node.lineno, at_import) for name in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            modules = (
                [f"graphwright.{name.name}" for name in node.names] if node.module == "graphwright" else [node.module]
            )
            found.extend((module, node.lineno, at_import) for module in modules)
        inside = at_import and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(path.read_text(encoding="utf-8")), True)
    return found


def problems(file: Path, found: list[tuple[str, int, bool]]) -> list[str]:
    """What is wrong with the imports of one file."""
    layer = file.parts[0]
    wrong = []
    for module, line, at_import in found:
        top, *rest = module.split(".")
        at = f"{file}:{line}"
        if top == "graphwright":
            if not rest or rest[0] not in LAYERS[layer]:
                wrong.append(f"{at}: {layer} may not import {module}")
            elif rest[0] == "lowering" and _other_target(file, rest):
                wrong.append(f"{at}: a target may not import another target ({module})")
        elif top not in sys.stdlib_module_names and top not in FOREIGN[layer]:
            wrong.append(f"{at}: {layer} may not import {top}")
        elif top in LAZY and at_import and not _in_emitter(file, top):
            wrong.append(f"{at}: {top} must be imported inside the functions that need it")
    return wrong


def _in_emitter(file: Path, top: str) -> bool:
    door = ("__init__.py", "target.py", "importer.py")
    return top in EMITTERS.get(str(file.parent), ()) and file.name not in door


def _other_target(file: Path, module: list[str]) -> bool:
    targets = {path.name for path in (ROOT / "lowering").iterdir() if path.is_dir()}
    return len(file.parts) > 2 and len(module) > 1 and module[1] in targets - {file.parts[1]}


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_follow_the_layers(file):
    assert not problems(file, imports(ROOT / file))


@pytest.mark.parametrize(
    ("file", "module", "at_import"),
    [
        ("ir/x.py", "graphwright.passes.base", False),
        ("ir/x.py", "transformers", False),
        ("frontends/x.py", "graphwright.passes.base", False),
        ("passes/x.py", "graphwright.lowering.target", False),
        ("passes/x.py", "graphwright", False),
        ("lowering/onnx/x.py", "graphwright.lowering.eager.target", False),
        ("lowering/onnx/x.py", "onnxruntime", True),
        ("lowering/onnx/target.py", "onnx_ir", True),
        ("lowering/eager/x.py", "onnx_ir", True),
        ("frontends/x.py", "transformers", True),
    ],
)
def test_a_forbidden_import_is_found(file, module, at_import):
    assert problems(Path(file), [(module, 1, at_import)])
