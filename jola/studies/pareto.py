"""Pareto fronts: points that no other point beats in both cost and score; needs no PyTorch."""

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return whether each point is on the front of cost (lower is better) against score (higher is better).

    A point is on the front unless another one is at least as good in both numbers and better in one. Equal points are
    therefore on the front together or not at all, and of several points with the same cost only those with the highest
    score can be on it. A point with NaN is never on the front and excludes no other.

    Args:
        points: (cost, score) of each point.
    """
    known = [point for point in points if point[0] == point[0] and point[1] == point[1]]
    return [point in known and not any(_beats(other, point) for other in known) for point in points]


def _beats(other: tuple[float, float], point: tuple[float, float]) -> bool:
    """Whether `other` is at least as good in cost and score, and not equal."""
    return other[0] <= point[0] and other[1] >= point[1] and other != point
