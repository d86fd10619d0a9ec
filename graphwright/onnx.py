"""ONNX as a place to come from and to edit in: `gw.onnx`.

program = gw.onnx.read("model.onnx")             # an ONNX file as a Program
graph = gw.onnx.to_graphsurgeon(artifact)        # an artifact as an onnx-graphsurgeon graph
artifact = gw.onnx.from_graphsurgeon(graph, artifact)
edited = gw.onnx.edit(artifact, my_edit)         # run, diff, compare
"""

from __future__ import annotations

from graphwright.frontends.onnx.importer import import_onnx as read
from graphwright.lowering.onnx.graphsurgeon import Edited, edit, from_graphsurgeon, to_graphsurgeon

__all__ = ["Edited", "edit", "from_graphsurgeon", "read", "to_graphsurgeon"]
