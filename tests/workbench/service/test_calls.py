"""Calls run one at a time, in order of arrival, and each knows its place in the queue."""

import threading
from collections.abc import Iterator

import pytest

from workbench.service.calls import Calls, Stops, Superseded, Ticket


@pytest.fixture
def calls() -> Iterator[Calls]:
    calls = Calls("test")
    yield calls
    calls.close()


class Door:
    """Work that ends when the door is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.begun = threading.Event()

    def __call__(self, ticket: Ticket[str]) -> str:
        self.begun.set()
        while not self.open.wait(0.01):
            if ticket.stop.is_set():
                return "stopped"
        return "through"


def test_calls_are_made_in_order_and_in_one_thread(calls: Calls) -> None:
    seen: list[tuple[int, int]] = []
    tickets = [calls.submit(lambda _, n=n: seen.append((n, threading.get_ident()))) for n in range(20)]
    for ticket in tickets:
        ticket.result()
    assert [n for n, _ in seen] == list(range(20))
    assert len({thread for _, thread in seen}) == 1


def test_the_place_counts_the_call_at_work_and_those_before(calls: Calls) -> None:
    door = Door()
    first = calls.submit(door)
    assert door.begun.wait(300)
    others = [calls.submit(lambda _: "quick") for _ in range(3)]
    assert first.place == 0
    assert [ticket.place for ticket in others] == [1, 2, 3]
    others[0].give_up()
    assert [ticket.place for ticket in others[1:]] == [1, 2]
    door.open.set()
    assert first.result() == "through"
    assert [ticket.result() for ticket in others[1:]] == ["quick", "quick"]
    assert all(ticket.place == 0 for ticket in others)


def test_waiting_gives_the_place_until_the_call_is_done(calls: Calls) -> None:
    door = Door()
    calls.submit(door)
    ticket = calls.submit(lambda _: 1)
    places = []
    for place in ticket.waiting(0.01, 0.01):
        places.append(place)
        if len(places) == 3:
            door.open.set()
    assert set(places[:3]) == {1}
    assert ticket.result() == 1
    assert list(calls.submit(lambda _: 2).waiting(300)) == []


def test_a_newer_call_of_a_page_replaces_its_older_one_of_the_kind(calls: Calls) -> None:
    door = Door()
    calls.submit(door)
    older = calls.submit(lambda _: "old", page="a", kind="next")
    newer = calls.submit(lambda _: "new", page="a", kind="next")
    other_page = calls.submit(lambda _: "b", page="b", kind="next")
    other_kind = calls.submit(lambda _: "k", page="a", kind="effects")
    with pytest.raises(Superseded):
        older.result()
    door.open.set()
    assert [t.result() for t in (newer, other_page, other_kind)] == ["new", "b", "k"]


def test_one_that_is_at_work_is_told_to_end(calls: Calls) -> None:
    door = Door()
    older = calls.submit(door, page="a", kind="answer")
    assert door.begun.wait(300)
    calls.submit(lambda _: "new", page="a", kind="answer").result()
    assert older.result() == "stopped"


def test_errors_reach_the_one_who_asked(calls: Calls) -> None:
    def fail(_: Ticket[None]) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        calls.submit(fail).result()
    assert calls.submit(lambda _: 3).result() == 3


def test_closing_ends_everything() -> None:
    calls, door = Calls("test"), Door()
    first = calls.submit(door)
    assert door.begun.wait(300)
    second = calls.submit(lambda _: 1)
    calls.close()
    assert first.result() == "stopped"
    with pytest.raises(Superseded):
        second.result()
    with pytest.raises(Superseded):
        calls.submit(lambda _: 2)


def test_a_page_stops_its_own_work_alone(calls: Calls) -> None:
    stops = Stops()
    doors = [Door(), Door()]
    tickets = [calls.submit(door) for door in doors]
    stops.begin("a", "answer", tickets[0])
    stops.begin("b", "answer", tickets[1])
    assert doors[0].begun.wait(300)
    stops.stop("a", "effects")
    assert not tickets[0].stop.is_set()
    stops.stop("a")
    stops.stop("a")
    assert tickets[0].result() == "stopped"
    doors[1].open.set()
    assert tickets[1].result() == "through"
