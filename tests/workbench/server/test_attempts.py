"""Wrong passwords make attempts wait, by a clock that the tests set."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from workbench.server.attempts import Attempts, Patience
from workbench.server.door import Door


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def wrong(attempts: Attempts, address: str, count: int, clock: Clock) -> list[float]:
    """The waits before each of so many attempts, which are made as early as allowed."""
    waits = []
    for _ in range(count):
        waits.append(attempts.begin(address))
        if waits[-1]:
            clock.now += waits[-1]
            assert attempts.begin(address) == 0.0
    return waits


def test_the_wait_doubles_up_to_a_bound(clock: Clock) -> None:
    attempts = Attempts(Patience(3, 20.0), Patience(10**6, 1.0), clock)
    assert wrong(attempts, "1.2.3.4", 10, clock) == [0, 0, 0, 1, 2, 4, 8, 16, 20, 20]
    assert attempts.begin("1.2.3.5") == 0.0


def test_asking_too_early_counts_for_nothing(clock: Clock) -> None:
    attempts = Attempts(Patience(1, 100.0), clock=clock)
    attempts.begin("a")
    assert {attempts.begin("a") for _ in range(1000)} == {1.0}


def test_the_right_one_is_not_counted(clock: Clock) -> None:
    attempts = Attempts(Patience(2, 100.0), Patience(3, 5.0), clock)
    for _ in range(100):
        assert attempts.begin("a") == 0.0
        attempts.right("a")


def test_many_addresses_wait_together_but_not_long(clock: Clock) -> None:
    attempts = Attempts(Patience(5, 300.0), Patience(50, 2.0), clock)
    waits = [wrong(attempts, f"10.0.{n // 250}.{n % 250}", 1, clock)[0] for n in range(1500)]
    assert waits[:50] == [0.0] * 50 and waits[50] == 1.0 and set(waits[51:]) == {2.0}
    assert len(attempts._counts) <= 1000


def test_an_ipv6_client_has_its_network(clock: Clock) -> None:
    attempts = Attempts(Patience(1, 100.0), clock=clock)
    assert attempts.begin("2001:db8::1") == 0.0
    assert attempts.begin("2001:db8::2") == 1.0
    assert attempts.begin("2001:db8:0:1::1") == 0.0
    assert attempts.begin("::ffff:1.2.3.4") == 0.0 and attempts.begin("::ffff:1.2.3.5") == 0.0


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
