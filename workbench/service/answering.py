"""Answers of a run to its test examples: stored answers, and answers computed on demand."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from jola.data.records import Example
from jola.errors import InputError
from jola.evaluation.confusion import change_of, example_values
from jola.runs.answers import ANSWERS_NAME, TestAnswer, read_answers
from jola.runs.run import Run
from jola.system.formatting import is_share
from workbench.service.bench import Workbench
from workbench.service.calls import Stops, Superseded
from workbench.service.examples import labels_of, longest_answer, test_examples
from workbench.service.session import Desk, Session, Stack, Use, refuse_remote

if TYPE_CHECKING:
    from workbench.service.calls import Ticket


def kept_answers(run: Run) -> tuple[TestAnswer, ...]:
    """Return the stored answers of a run; empty if it has none. Raises `InputError` if the file is damaged."""
    try:
        found = (run.path / ANSWERS_NAME).stat()
    except OSError:
        return ()
    return _kept_answers(run.path, (found.st_mtime_ns, found.st_ino))  # a clock may give two writes the same time


@dataclass(frozen=True)
class Judged:
    """Answers with the value of each under the metric of their run."""

    answers: tuple[TestAnswer, ...]
    metric: str
    edited: tuple[float | None, ...]
    base: tuple[float | None, ...]

    @property
    def is_share(self) -> bool:
        """Whether each value is 1 (right) or 0 (wrong)."""
        return is_share({"metric": self.metric})

    def change(self, index: int) -> str:
        """Return the effect of the edits on an example: "gained", "lost" or empty."""
        return change_of(self.base[index], self.edited[index]) or ""


def judged(answers: Sequence[TestAnswer], metric: str) -> Judged:
    """Compute the values of answers under a metric."""
    edited, base = example_values(answers, metric), example_values(answers, metric, base=True)
    return Judged(tuple(answers), metric, tuple(edited), tuple(base))


def judged_answers(run: Run) -> Judged:
    """Return the stored answers of a run with their values. Raises `InputError` if the file is damaged."""
    answers = kept_answers(run)
    return _judged(answers, metric_of(run, answers))


@lru_cache(maxsize=4)
def _judged(answers: tuple[TestAnswer, ...], metric: str) -> Judged:
    return judged(answers, metric)


def metric_of(run: Run, answers: Sequence[TestAnswer]) -> str:
    """Return the first metric of the run's task that is computed only from answers; exact match if there is none."""
    from jola.evaluation.metrics import METRICS  # imports scipy, which the page does not need at startup

    task = run.raw_config().get("task")
    names = task.get("metrics") if isinstance(task, dict) else None
    for name in names if isinstance(names, list) else ():
        metric = METRICS.get(name) if isinstance(name, str) else None
        if metric is None or metric.reads != "answer" or (metric.package and not _is_installed(metric.package)):
            continue
        if not metric.needs_labels or all(answer.example.options for answer in answers):
            return metric.name
    return "exact_match"


def _is_installed(package: str) -> bool:
    return find_spec(package.partition(".")[0]) is not None


@lru_cache(maxsize=4)
def _kept_answers(folder: Path, _version: tuple[int, int]) -> tuple[TestAnswer, ...]:
    return tuple(read_answers(folder))


def unanswered(bench: Workbench, run: Run) -> tuple[TestAnswer, ...]:
    """Return the test examples of a run with their stored answers, or with empty answers if none are stored.

    Raises `InputError` if the test data are needed and missing.
    """
    kept = kept_answers(run)
    if kept and all(map(_is_whole, kept)):
        return kept
    examples = test_examples(bench, run)
    if not kept:
        labels = labels_of(run)
        return tuple(TestAnswer(e.id, e if e.options else replace(e, options=labels), "") for e in examples)
    by_id = {example.id: example for example in examples}
    if not all(answer.id in by_id for answer in kept):
        raise InputError(
            "The test data have changed since this run, and its stored prompts are shortened; train again."
        )
    return tuple(replace(a, example=replace(by_id[a.id], options=a.example.options)) for a in kept)


def _is_whole(answer: TestAnswer) -> bool:
    """Whether the prompt was stored in full; long prompts are shortened and then have a different hash."""
    return answer.id in (answer.example.id, replace(answer.example, options=()).id)


@dataclass(frozen=True)
class Step:
    """Progress of the answers: number of calls ahead in the queue, and answered examples over all stacks."""

    place: int
    done: int
    total: int

    def words(self) -> str:
        """Return the progress as a sentence."""
        if self.place:
            return f"In the queue: {self.place} before you."
        return f"{self.done:,} of {self.total:,} answers" if self.done else "Answering …"


class Answering:
    """Computes the answers of several stacks to the same examples, decoded as in the test of the run.

    Args:
        run: Run whose base model answers if a stack is empty.
        stacks: Stacks by a name for their answers; computed one after the other.
        longest: Examples whose right answers limit the length of an answer, if the task does not; default ``examples``.
        page, kind: A newer call of the same page and kind replaces this one.
        stops: Registry through which the page can stop the calls.
    """

    def __init__(
        self,
        session: Session,
        run: Run,
        stacks: Mapping[str, Stack],
        examples: Sequence[Example],
        longest: Sequence[Example] = (),
        *,
        page: str = "",
        kind: str = "test",
        stops: Stops | None = None,
    ) -> None:
        self._session, self._run, self._stacks = session, run, stacks
        self._examples, self._longest = examples, longest or examples
        self._page, self._kind, self._stops = page, kind, stops
        self._done = 0
        self.answers: dict[str, list[str]] = {}
        """The answers by the name of their stack, complete after `steps`."""

    def steps(self) -> Iterator[Step]:
        """Compute the answers and yield the progress. Raises the exceptions of calls, and `Superseded` if stopped."""
        total = len(self._stacks) * len(self._examples)
        for number, (name, stack) in enumerate(self._stacks.items()):
            before = number * len(self._examples)
            ticket = self._ask(stack, before)
            if self._stops is not None:
                self._stops.begin(self._page, self._kind, ticket)
            for place in ticket.waiting():
                yield Step(place, self._done, total)
            self.answers[name] = ticket.result()

    def _ask(self, stack: Stack, before: int) -> "Ticket[list[str]]":
        work = partial(self._work, before=before)
        return self._session.ask(stack, work, page=self._page, kind=self._kind, base=self._run)

    def _work(self, desk: Desk, before: int) -> list[str]:
        from jola.evaluation.scoring import answer_tokens, exact_match

        def advance(done: int, total: int) -> None:
            self._done = before + done
            if desk.stop.is_set() and done < total:
                raise Superseded

        length = longest_answer(self._run) or answer_tokens(self._longest, desk.template)
        return exact_match(
            desk.model,
            self._examples,
            desk.template,
            max_new_tokens=length,
            beams=self._run.run_config().data.beams,
            mask=list(desk.masks) or None,
            progress=advance,
        ).answers


def complete(bench: Workbench, run: Run, *, page: str = "", stops: Stops | None = None) -> Iterator[Step]:
    """Compute and store the missing answers of a run, with its edits and of the base model.

    Raises:
        InputError: The run is still running, the test data are needed and missing, or the answers are too large to
            store.
    """
    if run.alive:
        raise InputError("This run is still running; test it when it has ended.")
    answers, kept = unanswered(bench, run), bool(kept_answers(run))
    stacks: dict[str, Stack] = {} if kept else {"edited": [Use(run)]}
    if any(answer.base_answer is None for answer in answers):
        stacks["base"] = []
    work = Answering(bench.session, run, stacks, [a.example for a in answers], page=page, kind="answers", stops=stops)
    yield from work.steps()
    edited = work.answers.get("edited", [answer.answer for answer in answers])
    base = work.answers.get("base", [answer.base_answer for answer in answers])
    found = [replace(a, answer=e, base_answer=b) for a, e, b in zip(answers, edited, base, strict=True)]
    if not run.write_answers(found):
        raise InputError("The answers are not saved, because they need more than 64 MB.")


@dataclass(frozen=True)
class MaskTest:
    """Test examples of a run, answered with all edits, without any, and with a chosen stack."""

    run: str
    answers: tuple[TestAnswer, ...]
    """With all edits, and of the base model."""
    chosen: tuple[str, ...]
    """With the chosen stack, in the same order."""
    metric: str
    """Name of the metric of the run."""


def compare_stack(
    bench: Workbench, run: Run, stack: Stack, count: int, *, page: str = "", stops: Stops | None = None
) -> Iterator[Step | MaskTest]:
    """Answer the first ``count`` test examples with a stack; the last yielded value is the result.

    Stored answers are not computed again. Raises `InputError` like `unanswered` and for remote models, and `Superseded`
    if stopped.
    """
    refuse_remote(stack)
    known, kept = unanswered(bench, run), bool(kept_answers(run))
    answers = known[:count]
    stacks: dict[str, Stack] = {} if kept else {"all": [Use(run)]}
    if any(answer.base_answer is None for answer in answers):
        stacks["base"] = []
    if not _is_as_trained(run, stack):
        stacks["chosen"] = stack
    examples, longest = [answer.example for answer in answers], [answer.example for answer in known]
    work = Answering(bench.session, run, stacks, examples, longest, page=page, stops=stops)
    yield from work.steps()
    edited = work.answers.get("all", [answer.answer for answer in answers])
    base = work.answers.get("base", [answer.base_answer for answer in answers])
    found = tuple(replace(a, answer=e, base_answer=b) for a, e, b in zip(answers, edited, base, strict=True))
    yield MaskTest(run.id, found, tuple(work.answers.get("chosen", edited)), metric_of(run, found))


def _is_as_trained(run: Run, stack: Stack) -> bool:
    if len(stack) != 1 or stack[0].run.id != run.id:
        return False
    return stack[0].strength == 1 and not any(mask.changed for mask in stack[0].masks.values())
