"""Computations and views of the Playground, without a browser."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from jola.config import EditConfig
from jola.edits.masks import HeadMask
from jola.errors import InputError
from jola.insight import MEASURES
from jola.methods.lora import LoRAConfig
from jola.runs.run import Run
from tests.tiny import make_model, make_tokenizer
from tests.workbench.edited import edited_run
from workbench.playground import results
from workbench.playground.effects_panel import wanted_answer, wrong_answers
from workbench.playground.pages import Pages
from workbench.playground.snippet import snippet
from workbench.playground.wiring import CHAT, PLAIN, answers_of, prompt_of, waiting_words
from workbench.service import examples, views
from workbench.service.bench import Workbench
from workbench.service.page_state import Column, PageState, columns, edits_of, masks_text, open_gates, open_run
from workbench.service.session import Prompt, Session

TAG = "<img src=x onerror=alert(1)>"
QUESTION = Prompt.of("A fine film about small things.")


@pytest.fixture
def other(bench: Workbench, tiny_folder: Path) -> Run:
    return edited_run(bench.store.root / "two", tiny_folder, seed=2)


# Choices of a page


def test_a_run_opens_with_all_edits_as_trained(bench: Workbench, run: Run) -> None:
    state = open_run(bench, run.id)
    assert (state.run, state.site, state.key) == ("one", "heads", "one/heads")
    assert state.mask.changed == 0
    assert masks_text(state) == ""
    assert edits_of(run)["heads"].units == state.mask.units


def test_a_link_opens_its_masks(bench: Workbench, run: Run) -> None:
    state = open_run(bench, run.id)
    state = state.with_mask(state.mask.switched([(0, 1)], "offset", False))
    again = open_run(bench, run.id, masks_text(state))
    assert again.mask == state.mask
    assert again.history.undone().mask.changed == 0


def test_each_site_has_its_own_mask(bench: Workbench, tiny_folder: Path) -> None:
    edited_run(bench.store.root / "both", tiny_folder, edits=EditConfig(sites="both"))
    state = open_run(bench, "both")
    assert list(state.histories) == ["heads", "mlp"]
    state = replace(state, site="mlp")
    state = state.with_mask(HeadMask.none(*state.mask.shape))
    assert state.histories["heads"].mask.changed == 0
    assert open_run(bench, "both", masks_text(state)).histories["mlp"].mask == state.mask


@pytest.mark.parametrize("masks", ["nonsense!", "mlp:1", "heads:AAAA", "a:b:c"])
def test_a_link_with_another_mask_is_refused(bench: Workbench, run: Run, masks: str) -> None:
    with pytest.raises(InputError):
        open_run(bench, run.id, masks)


@pytest.mark.parametrize("id", [None, "", "gone", "../one"])
def test_without_a_run_there_is_a_sentence(bench: Workbench, id: str | None) -> None:
    with pytest.raises(InputError, match="Choose a run"):
        open_run(bench, id)


def test_a_damaged_adapter_is_a_sentence(bench: Workbench, run: Run) -> None:
    (run.adapter_dir / "adapter_config.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        open_run(bench, run.id)


def test_open_gates_are_those_that_are_not_zero(bench: Workbench, run: Run) -> None:
    flags = open_gates(open_run(bench, run.id), bench)
    gates = edits_of(run)["heads"].gate_values()
    assert 0 < flags["offset"].sum() < flags["offset"].size
    assert (flags["offset"] == (gates["offset"] > 0).numpy()).all()


def test_other_runs_answer_beside_or_on_top(bench: Workbench, run: Run, other: Run) -> None:
    state = replace(open_run(bench, run.id), others=(other.id,), strength=0.5)
    beside = columns(bench, state)
    assert [[use.run.id for use in column.stack] for column in beside] == [["one"], ["two"]]
    assert beside[0].title != beside[1].title
    (on_top,) = columns(bench, replace(state, on_top=True))
    assert [(use.run.id, use.strength) for use in on_top.stack] == [("one", 0.5), ("two", 1.0)]
    (alone,) = columns(bench, replace(state, others=()))
    assert alone.title == "Edited"


def test_pages_do_not_see_each_other_and_are_forgotten() -> None:
    pages = Pages()
    pages.change("a", lambda state: replace(state, strength=2.0))
    assert (pages.get("a").strength, pages.get("b").strength) == (2.0, 1.0)
    with pytest.raises(ZeroDivisionError):
        pages.change("a", lambda state: replace(state, strength=1 / 0))
    assert pages.get("a").strength == 2.0
    pages.forget("a")
    assert pages.get("a") == PageState()


def test_a_drawn_conversation_is_used_until_the_box_changes() -> None:
    drawn = Prompt((("system", "Be brief."), ("user", "Good or bad?")))
    state = PageState(prompt=drawn, right="good")
    assert prompt_of(state, "Good or bad?", CHAT) == drawn
    assert prompt_of(state, "Why?", CHAT).turns == (("user", "Why?"),)
    assert prompt_of(state, "Good or bad?", PLAIN).plain
    with pytest.raises(InputError, match="prompt is empty"):
        prompt_of(state, "  ", CHAT)


def test_answers_are_lines_and_count_once() -> None:
    assert answers_of(" good\n\nbad \ngood") == ["good", "bad"]
    assert answers_of(None) == []


def test_wrong_answers_are_the_written_one_or_the_other_given_ones() -> None:
    assert wrong_answers("good\nbad\nfine", "good", "") == ["bad", "fine"]
    assert wrong_answers("good\nbad", "good", " poor ") == ["poor"]
    with pytest.raises(InputError, match="Write a wrong answer"):
        wrong_answers("good", "good", "")


@pytest.mark.parametrize("measure", MEASURES)
def test_effects_by_every_measure_say_what_they_are(bench: Workbench, run: Run, measure: Any) -> None:
    (column,) = columns(bench, open_run(bench, run.id))
    found = views.ask_edit_effects(
        bench.session, column.stack, QUESTION, "good", views.Progress(), measure=measure, wrong=["bad"]
    ).result()
    words, table = results.effects_words(found), results.effects_table(found, "“good”")
    assert {"log_probability": "ln p(answer)", "logit_difference": "right − wrong", "kl": "KL("}[measure] in words
    assert {"kl": "the next token", "logit_difference": "“good” against “bad”"}.get(measure, "“good”") in table
    certain = results.effects_words(replace(found, edited=-1e-6))
    assert ("the logit difference shows more" in certain) == (measure == "log_probability")


def test_an_effect_is_never_shown_as_zeros() -> None:
    assert [results.figure(value) for value in (0.0, 0.5, -0.012, 3e-6)] == ["+0.000", "+0.500", "-0.012", "+3e-06"]


def test_the_measured_answer_is_the_one_written_the_right_one_or_the_first() -> None:
    state = PageState(prompt=Prompt.of("x"), right="good")
    assert wanted_answer(state, "x", "a\nb", " mine ") == "mine"
    assert wanted_answer(state, "x", "a\nb", "") == "good"
    assert wanted_answer(state, "y", "a\nb", "") == "a"
    state = replace(state, likeliest=("y", "b"))
    assert wanted_answer(state, "y", "a\nb", "") == "b"
    assert wanted_answer(state, "z", "a\nb", "") == "a"
    assert wanted_answer(state, "y", "a\nc", "") == "a"
    with pytest.raises(InputError, match="Write the answer"):
        wanted_answer(PageState(), "x", "", "")


def test_waiting_is_said_in_words() -> None:
    assert "2 before you" in waiting_words(2, True)
    assert "Loading the model" in waiting_words(0, True)
    assert "Computing" in waiting_words(0, False)


# Prompts


def test_examples_and_labels_come_from_the_run_s_task(bench: Workbench, tiny_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for part, count in (("train", 12), ("validation", 4), ("test", 1)):
        rows = [{"prompt": f"Good or bad? {part} {number}", "completion": "good"} for number in range(count)]
        (data / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run = edited_run(bench.store.root / "own", tiny_folder, task=str(data))
    prompt, right = examples.draw_example(bench, run)
    assert (prompt.text, right) == ("Good or bad? test 0", "good")
    assert examples.test_examples(bench, run) is examples.test_examples(bench, Run(run.path)), "read once"
    (data / "test.jsonl").write_text(json.dumps({"prompt": "Good or bad? new", "completion": "bad"}))
    assert examples.draw_example(bench, run)[1] == "bad"
    assert examples.first_prompt(run) == ""
    config = json.loads((run.path / "config.json").read_text())
    config["task"]["labels"] = ["good", "bad"]
    (run.path / "config.json").write_text(json.dumps(config))
    assert examples.labels_of(run) == ("good", "bad")


def test_a_task_with_a_name_has_a_prompt_of_its_own_and_labels(run: Run) -> None:
    assert "movie review" in examples.first_prompt(run)
    assert examples.labels_of(run) == ("negative", "positive")


def test_data_that_are_gone_are_a_sentence(bench: Workbench, tiny_folder: Path, tmp_path: Path) -> None:
    run = edited_run(bench.store.root / "lost", tiny_folder, task=str(tmp_path / "gone"))
    with pytest.raises(InputError):
        examples.draw_example(bench, run)


# Views


def looked(session: Session, ways: list[Column]) -> views.NextTokens:
    return views.next_tokens(ways, [t.result() for t in views.ask_next_tokens(session, ways, QUESTION)])


def test_next_tokens_of_all_columns(bench: Workbench, run: Run, other: Run) -> None:
    ways = columns(bench, replace(open_run(bench, run.id), others=(other.id,)))
    view = looked(bench.session, ways)
    assert len(view.tokens) == 10 and len(view.columns) == 2
    largest = [max(token.base, *token.edited) for token in view.tokens]
    assert largest == sorted(largest, reverse=True)
    assert all(kl > 0 for kl in view.kl)
    assert list(view.to_frame().columns) == ["token", "base", *view.columns]


def test_a_change_says_what_it_changed_even_where_no_digit_does(bench: Workbench, run: Run) -> None:
    state = open_run(bench, run.id)
    asked = views.ask_next_tokens(bench.session, columns(bench, state), QUESTION)
    looks = [ticket.result() for ticket in asked]
    before = views.likeliest(looks[0])
    same = views.next_tokens(columns(bench, state), looks, before=before).since
    assert same is not None and same.ln_p == before.ln_p and "(no change)" in results.since_words(same)
    off = columns(bench, state.with_mask(state.mask.switched([(0, 0)], "both", False)))
    ticket = views.ask_next_tokens(bench.session, off, QUESTION)[0]
    since = views.next_tokens(off, [ticket.result()], before=before).since
    assert since is not None and since.ln_p == float(ticket.result().edited[before.id]) != before.ln_p
    assert f"({since.ln_p - before.ln_p:+.2g} nats)" in results.since_words(since)
    tiny = views.Since(views.Likeliest(1, TAG, -2e-7), -3e-7, views.Likeliest(2, "b", -0.5))
    words = results.since_words(tiny)
    assert "-2e-07 → -3e-07 (-1e-07 nats); now the most likely token is b" in words and "<img" not in words


def test_several_runs_are_marked_where_they_differ() -> None:
    view = views.NextTokens(
        ("one", "two"),
        (views.NextToken("a", 0.5, (0.75, 0.25)), views.NextToken("b", 0.25, (0.125, 0.625))),
        kl=(0.1, 0.2),
        length=3,
    )
    html = results.token_table(view)
    assert html.count("jw-likeliest") == 2 and "Spread" in html
    assert re.findall(r'jw-change jw-up">([\d.]+)<', html) == ["50.0", "50.0"]
    shares = views.AnswerShares(("one", "two"), ("yes", "no"), (-1.0, -1.0), ((-1.0, -3.0), (-1.0, -3.0)))
    assert re.findall(r'jw-change jw-(\w+)">([\d.]+)<', results.answer_table(shares)) == [("down", "0.0")] * 2


def test_equal_answers_are_named() -> None:
    html = results.answers(views.Writings(("one", TAG, "three"), ("yes", "no", "no ", "maybe")))
    assert html.count("same as one") == 1 and html.count("same as") == 1 and "<img" not in html


def test_runs_of_different_models_are_a_sentence(bench: Workbench, run: Run, tmp_path: Path) -> None:
    make_model("gpt2").save_pretrained(tmp_path / "other")
    make_tokenizer().save_pretrained(tmp_path / "other")
    edited_run(bench.store.root / "another", tmp_path / "other")
    state = replace(open_run(bench, run.id), others=("another",))
    with pytest.raises(InputError, match="choose runs of the same base model"):
        columns(bench, state)


def test_runs_of_different_methods_answer_beside_each_other(bench: Workbench, run: Run, tiny_folder: Path) -> None:
    edited_run(bench.store.root / "lora", tiny_folder, edits=LoRAConfig())
    view = looked(bench.session, columns(bench, replace(open_run(bench, run.id), others=("lora",))))
    assert len(view.columns) == 2 and any(abs(t.edited[0] - t.edited[1]) > 1e-4 for t in view.tokens)


def test_with_every_edit_off_nothing_changes(bench: Workbench, run: Run) -> None:
    state = open_run(bench, run.id)
    view = looked(bench.session, columns(bench, state.with_mask(HeadMask.none(*state.mask.shape))))
    assert all(token.base == token.edited[0] for token in view.tokens)
    assert view.kl == (0.0,)


def test_answers_are_written_one_after_the_other(bench: Workbench, run: Run) -> None:
    shown = list(views.write_answers(bench.session, columns(bench, open_run(bench, run.id)), QUESTION, 8))
    assert [view.writing for view in shown] == sorted(
        (view.writing for view in shown), key=lambda w: 9 if w is None else w
    )
    last = shown[-1]
    assert last.done and last.texts[0] and last.texts[1] and last.texts[0] != last.texts[1]
    assert list(last.to_frame()["edits"]) == ["base", "Edited"]


def test_shares_sum_to_one_and_survive_tiny_probabilities() -> None:
    view = views.AnswerShares(("Edited",), ("a", "b"), (-1000.0, -1001.0), ((-2.0, -2.0),))
    assert view.shares(view.base) == pytest.approx([1 / (1 + math.exp(-1)), 1 - 1 / (1 + math.exp(-1))])
    assert view.shares(view.edited[0]) == [0.5, 0.5]
    assert list(view.to_frame().columns) == ["answer", "base ln p", "base share", "Edited ln p", "Edited share"]


def test_what_comes_from_models_and_people_is_escaped() -> None:
    nasty = '<img src=x onerror="alert(1)">${1}{{2}}'
    tokens = views.NextTokens((nasty,), (views.NextToken(nasty, 0.5, (0.6,)),), (0.1,), 3)
    shares = views.AnswerShares((nasty,), (nasty, "b"), (-1.0, -2.0), ((-1.0, -2.0),))
    written = views.Writings((nasty,), (nasty, nasty + "!"))
    for html in (results.token_table(tokens), results.answer_table(shares, nasty), results.answers(written)):
        assert "<img" not in html and "${" not in html and "{{" not in html


# The code that reproduces the numbers


@pytest.mark.parametrize("plain", [False, True])
def test_the_code_gives_the_same_numbers(
    bench: Workbench, run: Run, plain: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    state = open_run(bench, run.id)
    state = replace(state.with_mask(state.mask.switched([(0, 0), (1, 1)], "both", False)), strength=0.5)
    ways, prompt = columns(bench, state), Prompt.of(QUESTION.text, plain=plain)
    view = views.next_tokens(ways, [t.result() for t in views.ask_next_tokens(bench.session, ways, prompt)])
    found = executed(snippet(ways, "result = insight.next_tokens(model, prompt, mask=mask)", prompt))[
        "result"
    ].to_frame()
    assert list(found["token"][:3]) == [token.token for token in view.tokens[:3]]
    assert list(found["edited"][:3]) == pytest.approx([token.edited[0] for token in view.tokens[:3]], abs=1e-5)
    assert list(found["base"][:3]) == pytest.approx([token.base for token in view.tokens[:3]], abs=1e-5)


def test_the_code_of_a_stack_gives_the_same_numbers(bench: Workbench, run: Run, other: Run) -> None:
    state = replace(open_run(bench, run.id), others=(other.id,), on_top=True, strength=0.5)
    state = state.with_mask(state.mask.switched([(0, 0)], "both", False))
    ways = columns(bench, state)
    view = looked(bench.session, ways)
    code = snippet(ways, "result = insight.next_tokens(model, prompt, mask=mask)", QUESTION)
    found: pd.DataFrame = executed(code)["result"].to_frame()
    assert list(found["edited"][:3]) == pytest.approx([token.edited[0] for token in view.tokens[:3]], abs=1e-5)


def test_the_code_of_a_conversation_names_its_turns(bench: Workbench, run: Run) -> None:
    prompt = Prompt((("system", "Be brief."), ("user", "Good or bad?")))
    code = snippet(columns(bench, open_run(bench, run.id)), "result = prompt", prompt)
    assert executed(code)["result"] == prompt.example()


def executed(code: str) -> dict:
    names: dict = {}
    exec(code, names)  # the code that the page shows; it opens no trace, so nnsight does not need its source
    return names
