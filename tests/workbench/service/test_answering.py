"""Test answers that are stored, read again, and computed on request."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from jola.data.examples import Template
from jola.errors import InputError
from jola.evaluation.scoring import exact_match
from jola.jola_model import JoLAModel
from jola.runs import answers as kept
from jola.runs.run import Run
from tests.workbench.edited import edited_run
from tests.workbench.served import write_task
from workbench.service.answering import Answering, MaskTest, Step, compare_stack, complete, kept_answers, unanswered
from workbench.service.bench import Workbench
from workbench.service.calls import Stops, Superseded
from workbench.service.examples import test_examples as examples_of
from workbench.service.session import Use


@pytest.fixture
def run(bench: Workbench, tiny_folder: Path, tmp_path: Path) -> Run:
    return edited_run(bench.store.root / "one", tiny_folder, task=str(write_task(tmp_path / "task")))


def test_a_run_without_answers_gets_those_of_both_models(bench: Workbench, run: Run) -> None:
    assert kept_answers(run) == ()
    steps = list(complete(bench, run))
    examples = examples_of(bench, run)
    assert all(step.total == 2 * len(examples) for step in steps)
    found = kept_answers(run)
    model = JoLAModel.from_adapter(run.adapter_dir, dtype="float32")
    template = Template(model.tokenizer)
    assert [answer.answer for answer in found] == exact_match(model, examples, template).answers
    with model.disable_edits():
        assert [answer.base_answer for answer in found] == exact_match(model, examples, template).answers
    assert [answer.id for answer in found] == [example.id for example in examples]


def test_kept_answers_stay_and_only_the_base_model_is_asked(bench: Workbench, run: Run) -> None:
    answers = [replace(answer, answer=f"kept {number}") for number, answer in enumerate(unanswered(bench, run))]
    run.write_answers(answers)
    steps = list(complete(bench, run))
    assert all(step.total == len(answers) for step in steps)
    found = kept_answers(run)
    assert [answer.answer for answer in found] == ["kept 0", "kept 1", "kept 2", "kept 3"]
    assert None not in [answer.base_answer for answer in found]


def test_shortened_prompts_are_asked_whole(bench: Workbench, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = unanswered(bench, run)
    monkeypatch.setattr(kept, "PROMPT_LENGTHS", (12,))
    run.write_answers(whole)
    assert kept_answers(run)[0].example.prompt != whole[0].example.prompt
    assert [a.example.prompt for a in unanswered(bench, run)] == [a.example.prompt for a in whole]
    run.write_answers([replace(answer, id="of other data") for answer in whole])
    with pytest.raises(InputError, match="The test data have changed"):
        unanswered(bench, run)


def test_what_is_stopped_keeps_nothing(bench: Workbench, run: Run) -> None:
    class Stopping(Stops):
        def begin(self, page: str, kind: str, ticket: object) -> None:
            super().begin(page, kind, ticket)
            self.stop(page)

    held = threading.Event()
    busy = bench.session._local.calls.submit(
        lambda _: held.wait(300)
    )  # so that the call still waits when it is stopped
    with pytest.raises(Superseded):
        list(complete(bench, run, page="page", stops=Stopping()))
    held.set()
    busy.result()
    assert kept_answers(run) == ()


def test_a_run_at_work_is_not_tested(bench: Workbench, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "alive", True)
    with pytest.raises(InputError, match="still running"):
        next(complete(bench, run))


def test_stacks_answer_one_after_the_other(bench: Workbench, run: Run) -> None:
    examples = examples_of(bench, run)
    work = Answering(bench.session, run, {"edited": [Use(run)], "off": [Use(run, strength=0.0)], "base": []}, examples)
    list(work.steps())
    assert list(work.answers) == ["edited", "off", "base"]
    assert work.answers["off"] == work.answers["base"] != work.answers["edited"]


def comparing(bench: Workbench, run: Run, stack: list[Use], count: int = 500) -> tuple[list[Step], MaskTest]:
    *steps, found = compare_stack(bench, run, stack, count)
    assert isinstance(found, MaskTest) and all(isinstance(step, Step) for step in steps)
    return steps, found


def test_only_the_chosen_edits_are_computed_where_the_rest_was_kept(bench: Workbench, run: Run) -> None:
    list(complete(bench, run))
    kept_ones = kept_answers(run)
    steps, off = comparing(bench, run, [Use(run, strength=0.0)])
    assert all(step.total == len(kept_ones) for step in steps)
    assert off.answers == kept_ones and list(off.chosen) == [answer.base_answer for answer in kept_ones]
    steps, same = comparing(bench, run, [Use(run)])
    assert steps == [] and list(same.chosen) == [answer.answer for answer in kept_ones]


def test_without_kept_answers_the_first_examples_are_computed_and_not_kept(bench: Workbench, run: Run) -> None:
    steps, found = comparing(bench, run, [Use(run, strength=0.5)], count=2)
    assert len(found.answers) == len(found.chosen) == 2 and all(step.total == 6 for step in steps)
    assert kept_answers(run) == ()


def test_progress_is_said_in_words() -> None:
    assert Step(2, 0, 10).words() == "In the queue: 2 before you."
    assert Step(0, 0, 10).words() == "Answering …"
    assert Step(0, 4, 1000).words() == "4 of 1,000 answers"
