"""Pipeline: passes in order, checked before they run, verified and recorded while they run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

from graphwright.ir.errors import GraphwrightError, PassError, PipelineError
from graphwright.ir.program import Program
from graphwright.ir.record import Rewrite
from graphwright.ir.rewriter import Rewriter
from graphwright.ir.snapshot import Snapshot, fingerprint
from graphwright.passes.base import FunctionPass, Pass, PassFunction, RulePass, pass_name
from graphwright.passes.instruments import Instrument, VerifyEach
from graphwright.passes.patterns.rule import Rule
from graphwright.passes.registry import find_pass
from graphwright.passes.result import Result
from graphwright.passes.spec import Call, build, parse_spec
from graphwright.passes.trace import PassRecord, Trace

DEFAULT = "canonicalize,fuse-attention"

# Validation costs a fixed 0.1 to 0.3 s, which a user notices least where capture takes seconds anyway.
_VALIDATED_BYTES = 256 << 20

Step = str | Pass | Rule | type[Rule] | PassFunction


@dataclass(frozen=True)
class Repeat(Pass):
    """Run passes again and again until nothing changes, at most `times` times: `repeat{times=3}(a,b)`."""

    name: ClassVar[str] = "repeat"
    times: int = 10
    body: tuple[Pass, ...] = field(default=(), metadata={"spec": False})

    def __str__(self) -> str:
        return f"repeat{{times={self.times}}}({','.join(map(str, self.body))})"


class Pipeline:
    """A sequence of passes.

    Args:
        steps: Text such as `canonicalize,fuse-attention{expect=all}`, or a sequence of texts, passes, rules and plain
            functions `(program, rewriter)`. `default` stands for the pipeline of `graphwright.optimize`.

    Raises:
        PipelineError: A name or option is unknown, or a pass requires an invariant that an earlier one breaks.
    """

    def __init__(self, steps: str | Sequence[Step] | Step = DEFAULT) -> None:
        items = [steps] if isinstance(steps, (str, Pass, Rule)) or callable(steps) else list(steps)
        self.passes: tuple[Pass, ...] = tuple(pass_ for item in items for pass_ in _passes(item))
        self.requires = _required(self.passes)

    def __str__(self) -> str:
        return ",".join(map(str, self.passes))

    def __repr__(self) -> str:
        return f"Pipeline({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pipeline) and self.passes == other.passes

    def __hash__(self) -> int:
        return hash(self.passes)

    def __add__(self, other: Pipeline | str) -> Pipeline:
        return Pipeline([*self.passes, *(Pipeline(other) if isinstance(other, str) else other).passes])

    def run(
        self,
        program: Program,
        instruments: Iterable[Instrument] = (),
        *,
        verify: bool = True,
        validate: bool | None = None,
        in_place: bool = False,
    ) -> Result:
        """Run the passes on a copy of `program` (on itself with `in_place`).

        Args:
            program: The program; it stays as it is unless `in_place`.
            instruments: Watchers, such as `Timing()` and `DumpDir("out/")`.
            verify: Check the program after each pass that changed it (`VerifyEach`).
            validate: Run each distinct rewrite before and after on inputs of its own (`Validate`); None does so for
                programs with at most 256 MiB of weights.
            in_place: Edit `program` itself.

        Returns:
            The new program, the trace, and the diff.

        Raises:
            PipelineError: The program lacks an invariant that the pipeline requires.
            PassError: A pass failed.
            MismatchError: A rewrite changes what is computed.
        """
        instruments = tuple(instruments)
        missing = self.requires - program.invariants
        if missing:
            raise PipelineError(
                f"the pipeline '{self}' needs a program that is {', '.join(sorted(missing))}",
                remedies=["put 'canonicalize' first"],
            )
        watchers = [*([VerifyEach()] if verify else []), *_validators(program, validate, instruments), *instruments]
        run = _Run(program if in_place else program.clone(), watchers)
        return run.result(self.passes)


def _validators(program: Program, wanted: bool | None, instruments: Sequence[Instrument]) -> list[Instrument]:
    """A `Validate`, if it is wanted and not among the instruments already."""
    from graphwright.passes.validate import Validate

    if wanted is None:
        wanted = program.state_bytes() <= _VALIDATED_BYTES
    return [Validate()] if wanted and not any(isinstance(item, Validate) for item in instruments) else []


class _Run:
    """State of one run of a pipeline."""

    def __init__(self, program: Program, instruments: Sequence[Instrument]) -> None:
        self.program, self.instruments = program, instruments
        self.trace = Trace()
        self.notes: dict[str, Any] = {}
        self.checkpoints: list[Program] = []
        self.snapshot = Snapshot.of(program)
        for instrument in instruments:
            instrument.start(program)

    def result(self, passes: Sequence[Pass]) -> Result:
        for pass_ in passes:
            self._run(pass_)
        result = Result(self.program, self.trace, tuple(self.checkpoints))
        for instrument in self.instruments:
            instrument.finish(result)
        return result

    def _run(self, pass_: Pass) -> bool:
        """Run one pass, or the passes of a Repeat; True if the program changed."""
        if isinstance(pass_, Repeat):
            rounds = 0
            while rounds < pass_.times and any([self._run(inner) for inner in pass_.body]):
                rounds += 1
            return rounds > 0
        return self._run_one(pass_)

    def _run_one(self, pass_: Pass) -> bool:
        for instrument in self.instruments:
            instrument.before_pass(pass_, self.program)
        checkpoint = self.program.clone()
        checkpoint.revision = self.program.revision
        start = time.perf_counter()
        rewrites: list[Rewrite] = []
        misses = self._apply(pass_, checkpoint, rewrites)
        seconds = time.perf_counter() - start
        changed = bool(rewrites) or self.program.revision != checkpoint.revision or self._edited(checkpoint)
        record = self._record(pass_, rewrites, misses, seconds, changed)
        if changed:
            self.checkpoints.append(checkpoint)
        self.trace.append(record)
        self._watch(pass_, checkpoint, lambda watcher: watcher.after_pass(pass_, self.program, record))
        return changed

    def _apply(self, pass_: Pass, checkpoint: Program, rewrites: list[Rewrite]) -> tuple[Any, ...]:
        def sink(rewrite: Rewrite) -> None:
            rewrites.append(rewrite)
            for instrument in self.instruments:
                instrument.on_rewrite(rewrite)

        absent = pass_.requires - self.program.invariants
        if absent:
            raise PipelineError(
                f"pass '{pass_name(pass_)}' needs a program that is {', '.join(sorted(absent))}",
                remedies=["put 'canonicalize' before it"],
            )
        found: list[Any] = []
        rewriter = Rewriter(self.program, sink, pass_name(pass_))
        self.notes = rewriter.notes

        def work(_: Any) -> None:
            found.extend(pass_.apply(self.program, rewriter) or ())

        self._guard(pass_, checkpoint, work)
        self.program.invariants = (self.program.invariants - pass_.breaks) | pass_.establishes
        return tuple(found)

    def _watch(self, pass_: Pass, checkpoint: Program, call: Callable[[Instrument], None]) -> None:
        for instrument in self.instruments:
            self._guard(pass_, checkpoint, lambda _: call(instrument))  # noqa: B023

    def _guard(self, pass_: Pass, checkpoint: Program, work: Callable[[Any], None]) -> None:
        """Do work on behalf of a pass; a failure restores the program and tells the instruments."""
        try:
            work(None)
        except Exception as error:
            _restore(self.program, checkpoint)
            for instrument in self.instruments:
                instrument.on_failure(pass_, checkpoint, error)
            if isinstance(error, GraphwrightError):
                error.add_note(f"in pass '{pass_name(pass_)}'")
                raise
            raise PassError(f"pass '{pass_name(pass_)}' failed: {type(error).__name__}: {error}") from error

    def _edited(self, checkpoint: Program) -> bool:
        """Whether the graph was changed behind the Rewriter's back."""
        return len(self.program.graph.nodes) != len(checkpoint.graph.nodes) or fingerprint(self.program) != fingerprint(
            checkpoint
        )

    def _record(
        self, pass_: Pass, rewrites: list[Rewrite], misses: tuple[Any, ...], seconds: float, changed: bool
    ) -> PassRecord:
        before = self.snapshot
        if changed:
            self.program.touch()
            self.snapshot = Snapshot.of(self.program)
        return PassRecord(
            name=str(pass_),
            rewrites=tuple(rewrites),
            before=before,
            after=self.snapshot,
            seconds=seconds,
            misses=misses,
            notes=self.notes,
        )


def _restore(program: Program, checkpoint: Program) -> None:
    """Give `program` the contents of `checkpoint`."""
    revision = program.revision
    for item in fields(Program):
        setattr(program, item.name, getattr(checkpoint, item.name))
    program.revision = revision
    program.touch()


def _passes(item: Step) -> Iterator[Pass]:
    if isinstance(item, Pass):
        yield item
    elif isinstance(item, str):
        for call in parse_spec(item) if item.strip() else ():
            yield from _from_call(call)
    elif isinstance(item, Rule) or (isinstance(item, type) and issubclass(item, Rule)):
        yield RulePass(rule=item)
    elif isinstance(item, type) and issubclass(item, Pass):
        yield item()
    elif callable(item) and not isinstance(item, type):
        yield FunctionPass(function=item)
    else:
        raise PipelineError(f"{item!r} is neither a pass, nor the name of one, nor a function")


def _from_call(call: Call) -> Iterator[Pass]:
    if call.name == "default":
        yield from Pipeline(DEFAULT).passes
    elif call.name == Repeat.name:
        body = tuple(pass_ for inner in call.body for pass_ in _from_call(inner))
        if not body:
            raise PipelineError("repeat needs passes in parentheses", remedies=["repeat{times=3}(canonicalize)"])
        yield replace(build(Repeat, call), body=body)
    elif call.body:
        raise PipelineError(f"'{call.name}' takes no passes in parentheses; only repeat does")
    else:
        item = find_pass(call.name)
        if isinstance(item, (FunctionPass, RulePass)):
            if call.options:
                raise PipelineError(f"'{call.name}' is a plain function or rule and has no options")
            yield item
        else:
            yield build(item, call)


def flat_passes(passes: Sequence[Pass]) -> Iterator[Pass]:
    """The passes with those inside of a Repeat in its place, once."""
    for pass_ in passes:
        yield from flat_passes(pass_.body) if isinstance(pass_, Repeat) else (pass_,)


def _rounds(passes: Sequence[Pass]) -> Iterator[Pass]:
    """The passes with two rounds of each Repeat: the second shows what the first one breaks."""
    for pass_ in passes:
        yield from _rounds(pass_.body * min(pass_.times, 2)) if isinstance(pass_, Repeat) else (pass_,)


def _required(passes: Sequence[Pass]) -> frozenset[str]:
    """Invariants that the program must bring along.

    Raises:
        PipelineError: A pass requires an invariant that an earlier one breaks.
    """
    needed: set[str] = set()
    established: set[str] = set()
    broken: dict[str, Pass] = {}
    for pass_ in _rounds(passes):
        for invariant in sorted(pass_.requires - established):
            if invariant in broken:
                raise PipelineError(
                    f"pass '{pass_name(pass_)}' needs '{invariant}', which '{pass_name(broken[invariant])}' breaks",
                    remedies=[f"put a pass that establishes '{invariant}' between them"],
                )
            needed.add(invariant)
        established = (established - pass_.breaks) | pass_.establishes
        broken = {name: by for name, by in broken.items() if name not in pass_.establishes}
        broken |= {name: pass_ for name in pass_.breaks}
    return frozenset(needed)
