"""Waits after wrong passwords, with a clock that the tests set."""

import asyncio
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.workbench.coroutines import finish
from workbench.server.attempts import Attempts, Patience
from workbench.server.door import Door


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def begin(attempts: Attempts, address: str) -> float:
    return finish(attempts.begin(address))


def wrong(attempts: Attempts, address: str, count: int, clock: Clock) -> list[float]:
    """Make ``count`` wrong attempts as early as allowed, and return the wait before each."""
    waits = []
    for _ in range(count):
        waits.append(begin(attempts, address))
        if waits[-1]:
            clock.now += waits[-1]
            assert begin(attempts, address) == 0.0
    return waits


def test_the_wait_doubles_up_to_a_bound(clock: Clock) -> None:
    attempts = Attempts(Patience(3, 20.0), Patience(10**6, 1.0), clock)
    assert wrong(attempts, "1.2.3.4", 10, clock) == [0, 0, 0, 1, 2, 4, 8, 16, 20, 20]
    assert begin(attempts, "1.2.3.5") == 0.0


def test_asking_too_early_counts_for_nothing(clock: Clock) -> None:
    attempts = Attempts(Patience(1, 100.0), clock=clock)
    begin(attempts, "a")
    assert {begin(attempts, "a") for _ in range(1000)} == {1.0}


def test_the_right_one_is_not_counted(clock: Clock) -> None:
    attempts = Attempts(Patience(2, 100.0), Patience(3, 5.0), clock)
    for _ in range(100):
        assert begin(attempts, "a") == 0.0
        attempts.right("a")


def test_many_addresses_are_held_together_but_not_long(clock: Clock) -> None:
    held: list[float] = []

    async def sleep(seconds: float) -> None:
        held.append(seconds)
        clock.now += seconds

    attempts = Attempts(Patience(5, 300.0), Patience(50, 2.0), clock, sleep)
    assert {begin(attempts, f"10.0.{n // 250}.{n % 250}") for n in range(1500)} == {0.0}
    assert held == [1.0, *[2.0] * 1449]
    assert len(attempts._counts) <= 1000


def test_who_knows_the_password_gets_in_during_an_attack(clock: Clock) -> None:
    held: list[float] = []

    async def sleep(seconds: float) -> None:
        held.append(seconds)

    attempts = Attempts(Patience(5, 300.0), Patience(50, 2.0), clock, sleep)
    for n in range(600):  # 50 wrong attempts per second, each from another address
        clock.now += 0.02
        begin(attempts, f"10.1.{n // 250}.{n % 250}")
        if n % 50 == 0:
            assert begin(attempts, "192.0.2.1") == 0.0
            attempts.right("192.0.2.1")
    assert max(held) <= 2.0


def test_held_attempts_are_bounded(clock: Clock) -> None:
    async def run() -> None:
        end = asyncio.Event()

        async def sleep(seconds: float) -> None:
            await end.wait()

        attempts = Attempts(Patience(5, 300.0), Patience(0, 2.0), clock, sleep, most_held=3)
        assert await attempts.begin("a") == 0.0
        held = [asyncio.create_task(attempts.begin(f"b{n}")) for n in range(3)]
        await asyncio.sleep(0)
        assert await attempts.begin("c") == 2.0
        end.set()
        assert await asyncio.gather(*held) == [0.0] * 3
        assert await attempts.begin("c") == 0.0

    finish(run())


def test_an_ipv6_client_has_its_network(clock: Clock) -> None:
    attempts = Attempts(Patience(1, 100.0), clock=clock)
    assert begin(attempts, "2001:db8::1") == 0.0
    assert begin(attempts, "2001:db8::2") == 1.0
    assert begin(attempts, "2001:db8:0:1::1") == 0.0
    assert begin(attempts, "::ffff:1.2.3.4") == 0.0 and begin(attempts, "::ffff:1.2.3.5") == 0.0


def test_old_ones_are_forgotten(clock: Clock) -> None:
    attempts = Attempts(Patience(3, 20.0), Patience(10, 1.0), clock)
    wrong(attempts, "a", 30, clock)
    clock.now += 3601
    assert wrong(attempts, "a", 3, clock) == [0, 0, 0]


@pytest.mark.parametrize("path", ["/login", "/login/", "/LOGIN", "/%6cogin"])
def test_at_the_door(clock: Clock, path: str) -> None:
    asked: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        asked.append(scope["path"])
        await send({"type": "http.response.start", "status": 200 if body == b"right" else 400, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    client = TestClient(Door(app, None, 1000, attempts=Attempts(Patience(3, 9.0), clock=clock)))
    assert [client.post(path, content="wrong").status_code for _ in range(20)] == [400] * 3 + [429] * 17
    refused = client.post(path, content="right")
    assert refused.text == "Too many wrong passwords; try again in 1 s." and refused.headers["retry-after"] == "1"
    assert len(asked) == 3 and client.get("/").status_code == 400  # other requests are answered as before
    clock.now += 1
    assert client.post(path, content="right").status_code == 200
    assert client.post(path, content="wrong").status_code == 400
