"""`graphwright capture`: a model as a saved program."""

from __future__ import annotations

from graphwright.cli.console import emit_json, show_table, step
from graphwright.cli.models import load_program
from graphwright.cli.options import Inputs, Json, Model, Output, Static, Task
from graphwright.cli.summary import program_facts


def capture(
    model: Model,
    output: Output,
    inputs: Inputs = None,
    task: Task = None,
    static: Static = False,
    as_json: Json = False,
) -> None:
    """Capture MODEL as a program and save it: program.json and weights.safetensors."""
    program = load_program(model, inputs, task, static)
    with step(f"writing {output}"):
        program.save(output)
    facts = program_facts(program) | {"output": str(output)}
    if as_json:
        emit_json(facts)
    else:
        show_table("program", ["", ""], [[key, str(value)] for key, value in facts.items()])
