"""The search: from the lowest precision upwards, the group first whose error costs most per byte that it saves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from graphwright.ir.errors import GraphwrightError, InputError, PassError
from graphwright.ir.program import Program
from graphwright.lowering.registry import target as find_target
from graphwright.measure import interleaved_medians
from graphwright.passes.pipeline import Pipeline
from graphwright.passes.quant.calibrate import Calibration
from graphwright.passes.quant.options import Options
from graphwright.passes.quant.sites import find_sites
from graphwright.tuning.choices import FLOAT, Choice, Grouping, groups_of, quantizer
from graphwright.tuning.trials import Trial, Trials, run_key

PREPARED = "canonicalize,conv1d-to-linear,fuse-attention"

Metric = Callable[[Any], float]
Objective = Literal["size", "speed"]
Progress = Callable[[Trial, bool], None]


@dataclass(frozen=True)
class Tuned:
    """The best that was found.

    Args:
        program: The program, quantized as `best.choice` says.
        best: Its trial.
        baseline: The trial of the program as it was.
        trials: All trials, in order.
    """

    program: Program
    best: Trial
    baseline: Trial
    trials: tuple[Trial, ...]

    def __str__(self) -> str:
        best, base = self.best, self.baseline
        return (
            f"{best.choice}\nscore {best.score:.6g} (was {base.score:.6g}), "
            f"{best.size / 2**20:.2f} MiB (was {base.size / 2**20:.2f}), "
            f"{best.seconds * 1e3:.2f} ms (was {base.seconds * 1e3:.2f}); {len(self.trials)} trials"
        )


def tune(
    model: Any,
    metric: Metric,
    max_drop: str | float = "1%",
    *,
    objective: Objective = "size",
    methods: Sequence[str] = ("rtn",),
    bits: Sequence[int] = (3, 4, 8),
    group_size: int = 128,
    groups: Grouping = "role",
    heads: bool = False,
    lower_is_better: bool = False,
    calibration: Calibration | None = None,
    target: str = "eager",
    log: str | Path | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Find the smallest or fastest precision per group of linears whose score stays within a bound.

    All groups begin with the fewest bits. While the score has dropped too far, the group whose error costs most per
    byte that it saves gets the next number of bits, and in the end stays in floating point; what one group costs is
    measured with all others in floating point. Then every raised group is tried once more with fewer bits.

    Args:
        model: A model or program, as `graphwright.capture` takes it.
        metric: Called with something that is called as the model is, and returns its score.
        max_drop: How far the score may drop, as a number or as a share of the model's own score.
        objective: What to make small: the bytes of the weights, or the time of a call.
        methods: Algorithms to try, see `graphwright.tuning.choices.METHODS`.
        bits: Numbers of bits to try.
        group_size: Inputs that share a scale.
        groups: Which linears share a precision, see `groups_of`.
        heads: Also tune output projections such as `lm_head`.
        lower_is_better: The metric is an error or a perplexity.
        calibration: Data for algorithms that need it.
        target: What the candidates are lowered to before they are scored and timed.
        log: File of trials; an interrupted run goes on after those that it holds.
        progress: Called with each trial, and whether it is within the bound.

    Raises:
        InputError: `max_drop` is no number or percentage.
        PassError: The model has no linears.
        GraphwrightError: The metric returned no finite number for the model as it is.
    """
    import graphwright

    program = Pipeline(PREPARED).run(graphwright.capture(model), validate=False).program
    sites = find_sites(program, Options(group_size=group_size), heads=heads)
    if not sites:
        raise PassError("there is no linear to tune", remedies=["pass heads=True for a model of one projection"])
    found = groups_of(sites, groups)
    settings = (getattr(metric, "__module__", ""), getattr(metric, "__qualname__", ""), group_size, groups, target)
    trials = Trials(None if log is None else Path(log), run_key(program, settings))
    lab = _Lab(program, metric, found, {"group_size": group_size, "heads": heads}, calibration, target, trials)
    baseline = lab.trial(Choice("float", tuple((name, FLOAT) for name in found)))
    if not math.isfinite(baseline.score):
        raise GraphwrightError(f"the metric is {baseline.score} for the model as it is")
    sign = -1.0 if lower_is_better else 1.0
    search = _Search(lab, baseline, sign, allowed_drop(max_drop, baseline.score), objective, progress)
    for method in methods:
        search.run(method, sorted(bits))
    return Tuned(lab.program_of(search.best.choice), search.best, baseline, tuple(search.seen))


def allowed_drop(max_drop: str | float, score: float) -> float:
    """How far a score may drop, from a number or a text such as `1%`.

    Raises:
        InputError: It is neither, or negative.
    """
    text = str(max_drop).strip()
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = math.nan
    if not value >= 0:
        raise InputError(f"max_drop cannot be {max_drop!r}", remedies=['"1%" of the score', "0.5, in units of it"])
    return value / 100 * abs(score) if text.endswith("%") else value


@dataclass
class _Lab:
    """Makes candidates and measures them."""

    program: Program
    metric: Metric
    groups: Mapping[str, tuple[str, ...]]
    options: Mapping[str, Any]
    calibration: Calibration | None
    target: str
    trials: Trials

    def program_of(self, choice: Choice) -> Program:
        if choice.is_float:
            return self.program
        return Pipeline([quantizer(choice, self.groups, self.options, self.calibration)]).run(self.program).program

    def trial(self, choice: Choice) -> Trial:
        """Score and time a choice, unless that was done before."""
        if choice in self.trials.known:
            return self.trials.known[choice]
        program = self.program_of(choice)
        artifact = find_target(self.target).lower(program)
        with torch.no_grad():
            score = float(self.metric(artifact))
            example = program.example
            call = lambda: artifact(*example.args, **example.kwargs)  # noqa: E731
            seconds = interleaved_medians({"call": call}, rounds=5, warmup=1)["call"]
        return self.trials.add(Trial(choice, score, program.state_bytes(), seconds))


@dataclass
class _Search:
    """State of one search."""

    lab: _Lab
    best: Trial
    sign: float
    allowed: float
    objective: Objective
    progress: Progress | None

    def __post_init__(self) -> None:
        self.baseline = self.best
        self.seen = [self.best]

    def run(self, method: str, levels: Sequence[int]) -> None:
        """Search with one algorithm."""
        names = list(self.lab.groups)
        choice = Choice(method, tuple((name, levels[0]) for name in names))
        trial = self._try(choice)
        costs = self._costs(method, levels[0]) if not self._fits(trial) else {}
        raised: list[str] = []
        while not self._fits(trial) and not choice.is_float:
            group = max((n for n in names if choice.of(n) != FLOAT), key=lambda n: costs[n] / 2 ** raised.count(n))
            choice = choice.with_bits(group, _above(choice.of(group), levels))
            raised.append(group)
            trial = self._try(choice)
        for group in dict.fromkeys(reversed(raised)):
            choice = self._lowered(choice, group, levels)

    def _lowered(self, choice: Choice, group: str, levels: Sequence[int]) -> Choice:
        """The choice with fewer bits for a group, as long as the score allows it."""
        for bits in _below(choice.of(group), levels):
            lower = choice.with_bits(group, bits)
            if not self._fits(self._try(lower)):
                break
            choice = lower
        return choice

    def _costs(self, method: str, bits: int) -> dict[str, float]:
        """What quantizing each group alone costs in score, per byte that it saves."""
        alone = Choice(method, tuple((name, FLOAT) for name in self.lab.groups))
        trials = {name: self._try(alone.with_bits(name, bits)) for name in self.lab.groups}
        return {
            name: max(self._drop(trial), 0.0) / max(self.baseline.size - trial.size, 1)
            for name, trial in trials.items()
        }

    def _try(self, choice: Choice) -> Trial:
        trial = self.baseline if choice.is_float else self.lab.trial(choice)
        self.seen.append(trial)
        if self._fits(trial) and self._amount(trial) < self._amount(self.best):
            self.best = trial
        if self.progress is not None:
            self.progress(trial, self._fits(trial))
        return trial

    def _drop(self, trial: Trial) -> float:
        drop = self.sign * (self.baseline.score - trial.score)
        return drop if math.isfinite(drop) else math.inf

    def _fits(self, trial: Trial) -> bool:
        return self._drop(trial) <= self.allowed

    def _amount(self, trial: Trial) -> float:
        return trial.size if self.objective == "size" else trial.seconds


def _above(bits: int, levels: Sequence[int]) -> int:
    return next((level for level in levels if level > bits), FLOAT)


def _below(bits: int, levels: Sequence[int]) -> Iterator[int]:
    """The levels under `bits`, highest first."""
    return iter(sorted((level for level in levels if bits == FLOAT or level < bits), reverse=True))
