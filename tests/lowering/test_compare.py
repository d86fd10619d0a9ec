"""compare: it finds differences, says where, and looks at real positions only."""

from __future__ import annotations

import pytest
import torch

from graphwright.frontends.capture import capture
from graphwright.ir.errors import InputError, MismatchError
from graphwright.ir.program import Program
from graphwright.lowering.compare import compare
from graphwright.lowering.interface import Interface
from graphwright.lowering.samples import samples


class Pooled(torch.nn.Module):
    """Tokens and their masked mean."""

    def __init__(self, offset: float = 0.0, at_padding: float = 0.0, from_length: int = 1) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(20, 4)
        self.offset, self.at_padding, self.from_length = offset, at_padding, from_length

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        tokens = self.table(input_ids) + self.at_padding * (1 - attention_mask)[..., None]
        real = attention_mask[..., None].float()
        pooled = (tokens * real).sum(1) / real.sum(1)
        if input_ids.shape[1] >= self.from_length:
            pooled = pooled + self.offset
        return {"tokens": tokens, "pooled": pooled}


def twin(model: Pooled, **changes: float) -> Pooled:
    other = Pooled(**changes)
    other.load_state_dict(model.state_dict())
    return other


@pytest.fixture
def model() -> Pooled:
    torch.manual_seed(0)
    return Pooled()


@pytest.fixture
def program(model: Pooled) -> Program:
    inputs = {"input_ids": torch.arange(14).reshape(2, 7), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    return capture(model, inputs)


def test_equal_models(model: Pooled, program: Program) -> None:
    result = compare(model, program)
    assert result.ok and result.largest_difference == 0.0
    cases = {row.case for row in result.rows}
    assert {"as captured", "batch=1", "sequence=1", "right padding", "left padding", "scattered padding"} <= cases
    assert str(result).count("\n") == len(cases)
    assert {row.shape for row in result.rows if row.case == "batch=1"} == {(1, 7, 4), (1, 4)}


def test_a_difference_is_named(model: Pooled, program: Program) -> None:
    with pytest.raises(MismatchError, match="output 'pooled'") as caught:
        compare(twin(model, offset=0.01), program)
    assert "largest difference 0.01" in str(caught.value)


def test_a_difference_at_one_length_only_is_found(model: Pooled, program: Program) -> None:
    result = compare(twin(model, offset=1.0, from_length=10), program, raise_on_mismatch=False)
    wrong = {row.case for row in result.rows if not row.ok}
    assert wrong == {row.case for row in result.rows if row.shape[1] >= 10 and row.output == "tokens"} != set()
    assert "MISMATCH in pooled" in str(result)


def test_padded_positions_are_left_out_unless_asked_for(model: Pooled, program: Program) -> None:
    other = twin(model, at_padding=1.0)
    assert compare(other, program).ok
    with pytest.raises(MismatchError, match=r"output 'tokens' in the case '(right|left|scattered) padding'"):
        compare(other, program, padded=True)


def test_tolerances(model: Pooled, program: Program) -> None:
    slightly = twin(model, offset=1e-3)
    assert not compare(slightly, program, raise_on_mismatch=False).ok
    assert compare(slightly, program, atol=2e-3).ok
    assert not compare(slightly, program, rtol=0, atol=0, raise_on_mismatch=False).ok


def test_nan_and_infinity() -> None:
    class Divide(torch.nn.Module):
        def __init__(self, by: float) -> None:
            super().__init__()
            self.by = by

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([x * 0 / self.by, x.abs() / self.by])

    broken = capture(Divide(0.0), (torch.ones(2, 3),))
    assert compare(Divide(0.0), broken).ok
    with pytest.raises(MismatchError, match="largest difference inf"):
        compare(Divide(1.0), broken)


def test_a_candidate_that_fails_is_a_mismatch(model: Pooled, program: Program) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no kernel")

    program.run = fail  # type: ignore[method-assign]
    with pytest.raises(MismatchError, match="RuntimeError: no kernel"):
        compare(model, program)


def test_given_inputs(model: Pooled, program: Program) -> None:
    call = {"input_ids": torch.ones(1, 3, dtype=torch.long), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    result = compare(model, program, inputs=[call, call])
    assert [row.case for row in result.rows] == ["inputs 0", "inputs 0", "inputs 1", "inputs 1"]


def test_two_modules_need_a_program(model: Pooled) -> None:
    with pytest.raises(InputError, match="Program or an Artifact"):
        compare(model, model)


def test_samples_stay_within_the_captured_values(program: Program) -> None:
    made = samples(Interface.of(program))
    assert all(int(sample.inputs["input_ids"].max()) <= 13 for sample in made)
    for sample in made:
        holes = (sample.inputs["attention_mask"] == 0).any(1)
        assert not holes[0] and bool(holes.any()) == sample.label.endswith("padding")
        assert bool((sample.inputs["attention_mask"].sum(1) > 0).all())
