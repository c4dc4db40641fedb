"""Eight simultaneous users of one model: each gets their own answers, and a waiting user sees a place in the queue."""

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from gradio_client import Client

from jola.edits.masks import HeadMask
from tests.workbench.served import Served, serve
from workbench.playground import live
from workbench.playground.edit_map import edit_map_mask
from workbench.playground.edits_events import EditsEvents
from workbench.playground.edits_panel import map_state
from workbench.playground.pages import Pages
from workbench.playground.wiring import CHAT, Wiring, waiting_words
from workbench.service import views
from workbench.service.calls import Ticket
from workbench.service.page_state import PageState, masks_text, open_run
from workbench.service.session import Desk, Use

USERS = 8
ROUNDS = 3
PROMPTS = ["A fine film about small things.", "Is the question about a person?"]

# Edits that each user has switched off; no two users have the same.
OFF: list[list[dict[str, Any]]] = [
    [],
    [{"layer": 0, "unit": 0}],
    [{"layer": 0, "unit": 1}, {"layer": 2, "unit": 2}],
    [{"layer": 1, "unit": 3, "half": "offset"}],
    [{"layer": 1, "unit": 3, "half": "scale"}],
    [{"layer": layer, "unit": unit} for layer in range(3) for unit in range(4)],
    [{"layer": 2, "unit": unit} for unit in range(4)],
    [{"layer": layer, "unit": 1} for layer in range(3)],
]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One app with a finished run."""
    with serve(tmp_path_factory.mktemp("app")) as app:
        app.run("one")
        yield app


def together(work: Callable[[int], Any]) -> list[Any]:
    """Return the answers of all users, who start at the same moment; raise the exception of any of them."""
    gate = threading.Barrier(USERS)

    def begin(user: int) -> Any:
        gate.wait(300)
        return work(user)

    with ThreadPoolExecutor(USERS) as pool:
        return list(pool.map(begin, range(USERS)))


def questions(client: Client, user: int) -> list[Any]:
    """Ask all questions of one user, one after the other."""
    prompt, off = PROMPTS[user % len(PROMPTS)], OFF[user]
    found = client.predict("one", prompt, off=off, strength=1 - user / 10, api_name="/predict")
    answers = client.predict("one", prompt, off=off, new_tokens=6, api_name="/generate")
    effects = client.predict("one", prompt, "good", off=off, api_name="/effects")
    del effects["seconds"]
    return [found, answers, effects]


def test_every_program_gets_its_own_answers(app: Served) -> None:
    clients = [Client(app.address, verbose=False) for _ in range(USERS)]
    alone = [questions(clients[user], user) for user in range(USERS)]
    assert len({str(found) for found, _, _ in alone}) == USERS
    for _ in range(ROUNDS):
        assert together(lambda user: questions(clients[user], user)) == alone


@pytest.fixture
def wiring(app: Served) -> Wiring:
    with gr.Blocks(analytics_enabled=False):
        prompt, kind, answers = gr.Textbox(), gr.Radio([CHAT]), gr.Textbox()
        return Wiring(app.bench, Pages(), prompt, kind, answers, gr.HTML(), gr.Checkbox())


def page_state(wiring: Wiring, user: int) -> PageState:
    """Store the choices of one page on the server."""

    def chosen(_: PageState) -> PageState:
        state = open_run(wiring.bench, "one")
        mask = state.mask
        for edit in OFF[user]:
            mask = mask.switched([(edit["layer"], edit["unit"])], edit.get("half", "both"), False)
        return replace(state.with_mask(mask), strength=1 - user / 10)

    return wiring.pages.change(f"page {user}", chosen)


def look(wiring: Wiring, user: int, said: list[str] | None = None) -> list[str]:
    """Return the tables that a page finally shows: the next token and two given answers."""
    page = f"page {user}"
    tables: dict[int, str] = {}
    for words, *shown in live.look(wiring, wiring.pages.get(page), page, PROMPTS[0], CHAT, "good\nbad"):
        if said is not None and words:
            said.append(words)
        tables |= {place: value for place, value in enumerate(shown) if isinstance(value, str) and "<table" in value}
    return [tables[place] for place in sorted(tables)]


def test_every_page_shows_its_own_figures(wiring: Wiring) -> None:
    for user in range(USERS):
        page_state(wiring, user)
    alone = [look(wiring, user) for user in range(USERS)]
    assert all(len(tables) == 2 for tables in alone)
    assert len({tables[0] for tables in alone}) == USERS
    for _ in range(ROUNDS):
        assert together(lambda user: look(wiring, user)) == alone


def hold_model(app: Served) -> tuple[threading.Event, Ticket[None]]:
    """Return an event that ends a call of the loaded model, and the call."""
    begun, door = threading.Event(), threading.Event()

    def work(desk: Desk) -> None:
        begun.set()
        door.wait(300)

    busy = app.bench.session.ask([Use(app.bench.store.get("one"))], work)
    assert begun.wait(300)
    return door, busy


def test_words_of_others_stay(wiring: Wiring) -> None:
    state = page_state(wiring, 0)
    nothing = gr.skip()
    first, *rest = live.look(wiring, state, "page 0", PROMPTS[0], CHAT, "good\nbad")
    assert first == ("", nothing, nothing, nothing, nothing)  # before anything is computed
    assert len(rest) >= 2
    for (before, *_), (words, *_) in pairwise([first, *rest]):
        assert words != "" or before not in ("", nothing)  # "" only replaces own words


def test_the_words_of_a_later_click_stay(app: Served, wiring: Wiring) -> None:
    state = page_state(wiring, 0)
    door, busy = hold_model(app)
    computed = live.look(wiring, state, "page 0", PROMPTS[0], CHAT, "good\nbad")
    assert [next(computed)[0] for _ in range(2)] == ["", waiting_words(1, False)]
    unused: Any = None
    request: Any = SimpleNamespace(session_hash="page 0")
    _, saved = EditsEvents(wiring, unused, unused, unused).on_save("mine", request)
    assert "Saved as" in saved
    assert next(computed)[0] == gr.skip()  # still waiting
    door.set()
    assert {str(words) for words, *_ in computed} == {str(gr.skip())}
    busy.result()


def test_who_waits_sees_a_place_in_the_queue(app: Served, wiring: Wiring) -> None:
    state = page_state(wiring, 0)
    before = look(wiring, 0)
    door, busy = hold_model(app)
    other = app.bench.session.ask([Use(app.bench.store.get("one"))], lambda desk: None)
    said: list[str] = []

    def seen() -> list[str]:
        return look(wiring, 0, said)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(seen)
        while not any("In the queue: 2 before you." in words for words in said):
            assert not waiting.done(), said
        door.set()
        assert waiting.result(300) == before
    busy.result(), other.result()
    assert wiring.pages.get("page 0").mask == state.mask


def test_an_overtaken_answer_does_not_stay_on_the_page(wiring: Wiring) -> None:
    unused: Any = None
    request: Any = SimpleNamespace(session_hash="page 0")
    page_state(wiring, 0)
    events = EditsEvents(wiring, unused, unused, unused)

    def switch(unit: int) -> Iterator[tuple[Any, ...]]:
        def change(state: PageState) -> PageState:
            return state.with_mask(state.mask.switched([(0, unit)], "both", False))

        return events.changed(request, change, PROMPTS[0], CHAT, "")

    overtaken = switch(0)
    first = next(overtaken)
    later = list(switch(1))
    rest = list(overtaken)
    # The page applies the answers in the order of their arrival: the first answer arrives after all later ones.
    maps = [values[0].props["mask"] for values in (*later, first, *rest) if isinstance(values[0], gr.HTML)]
    latest = max(maps, key=lambda mask: mask["revision"])
    assert latest["on"] == edit_map_mask(wiring.pages.get("page 0").mask)["on"] != first[0].props["mask"]["on"]
    summaries = [values[1] for values in (*later, first, *rest) if isinstance(values[1], str)]
    assert summaries[-1] == later[0][1] != first[1]


def test_views_that_were_filled_for_an_earlier_mask_do_not_stay_on_the_page(wiring: Wiring) -> None:
    unused: Any = None
    request: Any = SimpleNamespace(session_hash="page 0")
    page_state(wiring, 0)
    events = EditsEvents(wiring, unused, unused, unused)

    def switch(unit: int) -> Iterator[tuple[Any, ...]]:
        return events.changed(
            request, lambda s: s.with_mask(s.mask.switched([(0, unit)], "both", False)), PROMPTS[0], CHAT, ""
        )

    def tables(answers: Iterable[tuple[Any, ...]]) -> list[str]:
        found = [re.search(r'data-masks="([^"]*)"', str(values[6])) for values in answers]
        return [match[1] for match in found if match]

    overtaken = switch(0)
    first = next(values for values in overtaken if "data-masks" in str(values[6]))
    later = list(switch(1))
    latest = masks_text(wiring.pages.get("page 0"))
    assert tables([first]) != tables(later) == [latest]
    assert tables(overtaken) == [latest], "the page may show it after all later answers"
    assert tables(switch(2)) == [masks_text(wiring.pages.get("page 0"))], "shown once if nothing has changed meanwhile"


def test_views_are_shown_again_for_the_latest_prompt(wiring: Wiring) -> None:
    unused: Any = None
    request: Any = SimpleNamespace(session_hash="page 0")
    page_state(wiring, 0)
    events = EditsEvents(wiring, unused, unused, unused)
    seen: list[str] = []
    ask = views.ask_next_tokens

    def recorded(session: Any, ways: Any, prompt: Any, **options: Any) -> Any:
        seen.append(prompt.text)
        return ask(session, ways, prompt, **options)

    def switch(text: str, unit: int) -> Iterator[tuple[Any, ...]]:
        return events.changed(
            request, lambda s: s.with_mask(s.mask.switched([(0, unit)], "both", False)), text, CHAT, ""
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(views, "ask_next_tokens", recorded)
        overtaken = switch(PROMPTS[0], 0)
        next(values for values in overtaken if "data-masks" in str(values[6]))
        list(switch(PROMPTS[1], 1))
        list(overtaken)
    assert seen == [PROMPTS[0], PROMPTS[1], PROMPTS[1]]


def test_an_overtaken_run_does_not_stay_on_the_page(app: Served, wiring: Wiring) -> None:
    app.run("two")
    unused: Any = None
    request: Any = SimpleNamespace(session_hash="page 0")
    events = EditsEvents(wiring, unused, unused, lambda id: f"About {id}.")
    overtaken = events.on_run(PROMPTS[0], CHAT, "", "one", request)
    first = next(overtaken)
    later = list(events.on_run(PROMPTS[0], CHAT, "", "two", request))
    rest = list(overtaken)
    about = [value for values in (*later, first, *rest) for value in values if str(value).startswith("About")]
    assert about == ["About two.", "About one.", "About two."]
    keys = [
        component.value["key"]
        for values in (*later, first, *rest)
        for component in values
        if isinstance(component, gr.HTML) and isinstance(component.value, dict)
    ]
    assert keys == ["two/heads", "one/heads", "two/heads"]


def test_masks_of_a_page_are_ordered_by_their_changes() -> None:
    pages = Pages()
    states = [pages.change("a", lambda state: replace(state, strength=2.0)) for _ in range(3)]
    shown = [edit_map_mask(HeadMask.all(2, 3), **map_state(state))["revision"] for state in reversed(states)]
    assert shown == sorted(shown, reverse=True) and len(set(shown)) == 3
    assert Pages().change("a", lambda state: state).revision > shown[0], "after a restart of the app"
    assert shown[0] < 2**53, "exact in JavaScript"
