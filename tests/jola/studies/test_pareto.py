"""Pareto fronts of cost and score."""

import math
import random

import pytest

from jola.studies.pareto import pareto_front

NAN = math.nan


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([], []),
        ([(3, 0.5)], [True]),
        ([(0, 0.5), (10, 0.9), (20, 0.8), (5, 0.4)], [True, True, False, False]),
        ([(1, 0.5), (1, 0.7), (2, 0.7)], [False, True, False]),
        ([(1, 0.5), (1, 0.5), (2, 0.6)], [True, True, True]),
        ([(1, 0.5), (1, 0.5), (1, 0.6)], [False, False, True]),
        ([(NAN, 0.9), (1, NAN), (2, 0.1)], [False, False, True]),
        ([(1, -math.inf), (math.inf, 0.9)], [True, True]),
    ],
)
def test_points_that_no_other_beats(points: list[tuple[float, float]], front: list[bool]) -> None:
    assert pareto_front(points) == front


def test_the_front_is_what_a_sweep_by_cost_finds() -> None:
    source = random.Random(0)
    points = [(float(source.randrange(20)), source.randrange(20) / 20) for _ in range(200)]
    best, swept = -math.inf, set()
    for cost in sorted({cost for cost, _ in points}):
        score = max(score for other, score in points if other == cost)
        if score > best:
            swept.add((cost, score))
            best = score
    assert {point for point, on in zip(points, pareto_front(points), strict=True) if on} == swept
