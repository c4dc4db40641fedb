"""The number of threads follows the load of the machine."""

import os
import subprocess
import sys
import time

import pytest

from jola.system.threads import INTERVAL, Sample, ThreadControl, fixed_by_user, take_sample, threads_for


@pytest.mark.parametrize(
    ("cores", "own", "others", "threads"),
    [
        (2, 2.0, 0.0, 2),
        (2, 1.8, 0.2, 2),
        (2, 1.3, 0.7, 1),
        (2, 1.0, 1.0, 1),
        (2, 0.5, 1.5, 1),
        (2, 0.1, 4.0, 1),
        (16, 15.0, 1.0, 15),
        (16, 1.0, 0.0, 16),
    ],
)
def test_it_is_the_number_of_free_cores(cores: int, own: float, others: float, threads: int) -> None:
    seconds = 5.0
    before = Sample(100.0, 7.0, 70.0, cores)
    now = Sample(100.0 + seconds, 7.0 + own * seconds, 70.0 + (own + others) * seconds, cores)
    assert threads_for(before, now, most=cores) == threads
    assert threads_for(before, now, most=1) == 1


def test_it_goes_down_and_up_with_the_load_and_is_restored() -> None:
    samples = iter(
        Sample(time, own, busy, 2)
        for time, own, busy in [(0, 0, 0), (INTERVAL / 2, 1, 1), (3, 3, 6), (6, 4.5, 12), (9, 7.5, 15), (12, 9, 21)]
    )
    chosen: list[int] = []
    control = ThreadControl(2, chosen.append, lambda: next(samples))
    for _ in range(4):
        control.update()
    assert chosen == [1, 2]
    control.update()
    assert chosen == [1, 2, 1]
    control.restore()
    control.restore()
    assert chosen == [1, 2, 1, 2]


def test_a_sample_counts_the_work_of_other_processes() -> None:
    code = "import time\nwhile time.process_time() < 0.5: pass"
    before = take_sample()
    subprocess.run([sys.executable, "-c", code], check=True)
    deadline = time.process_time() + 0.2
    while time.process_time() < deadline:
        pass
    now = take_sample()
    assert now.own - before.own >= 0.2
    assert now.busy - before.busy - (now.own - before.own) >= 0.4
    assert now.cores <= (os.cpu_count() or 1)


def test_what_the_user_fixed_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert not fixed_by_user()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert fixed_by_user()
