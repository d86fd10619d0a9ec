"""Programs of fixed sizes: same results, numbers in place of symbols, sizes that are not allowed refused."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

import graphwright as gw
from graphwright.ir.errors import InputError
from graphwright.ir.fixed_sizes import fix_sizes
from graphwright.ir.program import Program

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50}


@pytest.fixture(scope="module")
def bert() -> BertModel:
    torch.manual_seed(0)
    return BertModel(BertConfig(**SIZES)).eval().double()


@pytest.fixture(scope="module")
def program(bert: BertModel) -> Program:
    return gw.capture(bert)


def symbolic(program: Program) -> list[str]:
    values = ((node.name, node.meta.get("val")) for node in program.nodes)
    tensors = ((name, value) for name, value in values if isinstance(value, torch.Tensor))
    return [name for name, value in tensors if any(isinstance(size, torch.SymInt) for size in value.shape)]


def test_results_stay_and_no_symbol_is_left(bert, program):
    fixed = fix_sizes(program, {"batch": 3, "sequence": 16})
    ids, mask = torch.randint(0, 50, (3, 16)), torch.ones(3, 16, dtype=torch.long)
    mask[1, 9:] = 0
    kept = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    inputs = {name: kept[name] for name in fixed.signature.parameters if name in kept}
    torch.testing.assert_close(fixed.run(**inputs)[0], bert(**inputs)[0], rtol=0, atol=0)
    assert not symbolic(fixed) and not fixed.dims and symbolic(program)
    assert not any("sym_size" in str(node.target) for node in fixed.nodes)
    assert gw.Pipeline("canonicalize,fuse-attention{expect=all}").run(fixed).program


def test_the_example_has_the_fixed_sizes(program):
    fixed = fix_sizes(program, {"batch": 1, "sequence": 5})
    shapes = {tuple(leaf.shape) for leaf in fixed.example.leaves() if isinstance(leaf, torch.Tensor)}
    assert shapes == {(1, 5)}
    fixed.run(*fixed.example.args, **fixed.example.kwargs)


def test_other_dimensions_stay_dynamic():
    torch.manual_seed(0)
    llama = LlamaForCausalLM(LlamaConfig(**SIZES)).eval().double()
    program = gw.capture(llama, task="text-generation-with-past")
    step = fix_sizes(program, {"sequence": 1})
    assert [dim.name for dim in step.dims] == ["batch", "past_sequence"]
    expected = program.run(*step.example.args, **step.example.kwargs)
    actual = gw.Pipeline("canonicalize,fuse-attention").run(step).program.run(*step.example.args, **step.example.kwargs)
    torch.testing.assert_close(actual.logits, expected.logits, rtol=1e-12, atol=1e-12)


def test_a_fixed_program_survives_saving(program, tmp_path):
    fixed = fix_sizes(program, {"batch": 2, "sequence": 4})
    loaded = Program.load(fixed.save(tmp_path / "fixed"))
    arguments = fixed.example.args, fixed.example.kwargs
    torch.testing.assert_close(
        loaded.run(*arguments[0], **arguments[1])[0], fixed.run(*arguments[0], **arguments[1])[0]
    )


@pytest.mark.parametrize(("sizes", "text"), [({"length": 3}, "no dimension 'length'"), ({"batch": 0}, "cannot be 0")])
def test_sizes_that_do_not_fit_are_refused(program, sizes, text):
    with pytest.raises(InputError, match=text):
        fix_sizes(program, sizes)


def test_conditions_of_the_model_are_kept():
    class Branch(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if x.shape[0] + x.shape[1] < 12 else x

    program = gw.capture(Branch().eval(), {"x": torch.ones(3, 4)}, dynamic={"x": {0: "batch", 1: "sequence"}})
    assert fix_sizes(program, {"batch": 3, "sequence": 8})
    with pytest.raises(InputError, match="not valid for the sizes"):
        fix_sizes(program, {"batch": 9, "sequence": 8})
