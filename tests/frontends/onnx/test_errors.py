"""Files that are damaged, hostile, or use what is not understood."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnx_ir")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from graphwright.frontends.onnx.importer import import_onnx  # noqa: E402
from graphwright.ir.errors import CaptureError, FileFormatError, InputError, MismatchError  # noqa: E402

FLOAT = TensorProto.FLOAT


def model(nodes: list[Any], weights: tuple[Any, ...] = (), opset: int = 20, inputs: tuple[Any, ...] = ()) -> Any:
    """A model of [batch, 4] -> y."""
    x = helper.make_tensor_value_info("x", FLOAT, ["batch", 4])
    y = helper.make_tensor_value_info("y", FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x, *inputs], [y], list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def write(proto: Any, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_a_truncated_file(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    path = write(model([helper.make_node("MatMul", ["x", "w"], ["y"])], (weight,)), tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(FileFormatError, match="cannot read the ONNX model"):
        import_onnx(path)


def test_all_unknown_operators_are_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Foo", ["x"], ["a"], name="first", domain="other"),
        helper.make_node("Loop", ["a"], ["y"]),
    ]
    with pytest.raises(CaptureError, match=r"2 operators[\s\S]*ai.onnx::Loop[\s\S]*other::Foo \(first at first\)"):
        import_onnx(write(model(nodes), tmp_path))


def test_an_old_operator_set(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="operator set 9"):
        import_onnx(write(model([helper.make_node("Relu", ["x"], ["y"])], opset=9), tmp_path))


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname"])
def test_external_data_outside_the_folder(location: str, tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    onnx.external_data_helper.set_external_data(weight, location)
    weight.ClearField("raw_data")
    (tmp_path / "inner").mkdir()
    (tmp_path / "secret").write_bytes(bytes(64))
    path = write(model([helper.make_node("MatMul", ["x", "w"], ["y"])], (weight,)), tmp_path / "inner")
    with pytest.raises(FileFormatError, match=r"outside the model's folder|cannot read"):
        import_onnx(path)


def test_external_data_cut_short(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    onnx.external_data_helper.set_external_data(weight, "data", offset=0, length=64)
    weight.ClearField("raw_data")
    (tmp_path / "data").write_bytes(bytes(60))
    with pytest.raises(FileFormatError, match="cut short"):
        import_onnx(write(model([helper.make_node("MatMul", ["x", "w"], ["y"])], (weight,)), tmp_path))


def test_an_attribute_that_nobody_reads(tmp_path: Path) -> None:
    """An attribute that is ignored could change the result: it is refused."""
    node = helper.make_node("Relu", ["x"], ["y"], name="odd", slope=0.5)
    with pytest.raises(CaptureError, match=r"the attribute slope[\s\S]*node 0 'odd' \(Relu\)"):
        import_onnx(write(model([node]), tmp_path))


def test_a_branch_on_data_names_the_remedy(tmp_path: Path) -> None:
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [1])
    out = helper.make_tensor_value_info("b", FLOAT, None)
    yes = helper.make_graph([helper.make_node("Relu", ["x"], ["b"])], "yes", [], [out])
    no = helper.make_graph([helper.make_node("Neg", ["x"], ["b"])], "no", [], [out])
    node = helper.make_node("If", ["flag"], ["y"], then_branch=yes, else_branch=no)
    path = write(model([node], inputs=(flag,)), tmp_path)
    with pytest.raises(CaptureError, match="constants="):
        import_onnx(path)
    for value, operator in ((True, "relu"), (False, "neg")):
        program = import_onnx(path, constants={"flag": value})
        assert any(operator in str(node.target) for node in program.nodes)
        assert [str(node.target) for node in program.placeholders] == ["x"]


def test_unknown_names(tmp_path: Path) -> None:
    path = write(model([helper.make_node("Relu", ["x"], ["y"])]), tmp_path)
    with pytest.raises(InputError, match="no input z"):
        import_onnx(path, {"z": None})
    with pytest.raises(InputError, match="no input flag"):
        import_onnx(path, constants={"flag": True})


def test_a_difference_from_onnx_runtime_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    from graphwright.frontends.onnx.table import TABLE

    path = write(model([helper.make_node("Relu", ["x"], ["y"])]), tmp_path)
    monkeypatch.setitem(TABLE, ("", "Relu"), lambda call, x: x.abs())
    with pytest.raises(MismatchError, match="output 'y'"):
        import_onnx(path)
    assert import_onnx(path, verify=False).nodes
