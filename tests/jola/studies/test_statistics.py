"""Sets and scores of heads, and the statistics that compare them."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jola.config import EditConfig
from jola.errors import InputError
from jola.selectors.heads import Cost, HeadScores, HeadSet, Provenance
from jola.studies.statistics import (
    SeedMean,
    accuracy_interval,
    expected_jaccard,
    holm,
    jaccard,
    mean_over_seeds,
    overlap,
    paired_bootstrap,
    rank_correlation,
)

BY = Provenance("test", "model", "data", 3, "0.1", "{}")
heads_of_4_by_3 = st.sets(st.tuples(st.integers(0, 3), st.integers(0, 2)))


def chosen(pairs: set[tuple[int, int]]) -> HeadSet:
    return HeadSet(4, 3, pairs)


@given(heads_of_4_by_3, heads_of_4_by_3)
def test_sets_behave_as_sets(a: set[tuple[int, int]], b: set[tuple[int, int]]) -> None:
    first, second = chosen(a), chosen(b)
    assert set(first & second) == a & b
    assert set(first | second) == a | b
    assert set(first - second) == a - b
    assert set(first ^ second) == a ^ b
    assert set(~first) == set(itertools.product(range(4), range(3))) - a
    assert (first == second) == (a == b)
    assert len(first) == len(a)
    assert all((pair in first) == (pair in a) for pair in itertools.product(range(4), range(3)))


@given(heads_of_4_by_3)
def test_a_set_survives_json_text_array_and_mask(pairs: set[tuple[int, int]]) -> None:
    heads = HeadSet(4, 3, pairs, BY)
    again = HeadSet.from_dict(json.loads(json.dumps(heads.to_dict())))
    assert again == heads
    assert again.provenance == BY
    assert HeadSet.from_array(heads.array()) == heads
    for half in heads.mask().on.values():
        assert HeadSet.from_array(half) == heads
    if pairs:
        assert HeadSet.from_text(heads.to_text(), 4, 3) == heads


def test_a_set_narrows_the_edits_to_its_heads() -> None:
    config = chosen({(3, 0), (0, 2)}).edit_config(EditConfig(gates="none", layers="0-1"))
    assert (config.heads, config.layers, config.gates) == ("0:2,3:0", "all", "none")
    with pytest.raises(InputError, match="at least one"):
        chosen(set()).edit_config()


def test_a_set_survives_a_file_and_damage_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "made" / "heads.json"
    chosen({(1, 1)}).save(path)
    assert HeadSet.load(path) == chosen({(1, 1)})
    for text in ("", "[]", '{"format": 1}', path.read_text().replace("[1,", '["1",').replace("[[1", '[["1"')):
        path.write_text(text)
        with pytest.raises(InputError):
            HeadSet.load(path)
    with pytest.raises(InputError, match="Cannot read"):
        HeadSet.load(tmp_path / "none.json")


@pytest.mark.parametrize("pair", [(4, 0), (0, 3), (-1, 0)])
def test_a_head_that_does_not_exist_is_refused(pair: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="no head"):
        chosen({pair})
    with pytest.raises(InputError, match="cannot be combined"):
        chosen(set()) & HeadSet(3, 4, [])


def test_equal_scores_are_ranked_by_place() -> None:
    scores = HeadScores([[1, 2, 1], [2, 1, 0]], BY)
    assert scores.ranking() == [(0, 1), (1, 0), (0, 0), (0, 2), (1, 1), (1, 2)]
    assert list(scores.top(3)) == [(0, 0), (0, 1), (1, 0)]
    assert scores.top(3).provenance == BY
    assert len(scores.top(0)) == 0
    for k in (-1, 7):
        with pytest.raises(InputError, match="from 0 to 6"):
            scores.top(k)


def test_scores_survive_json_and_are_finite_and_fixed() -> None:
    scores = HeadScores([[0.1, -2.0]], BY, Cost(1, 2, 3, 0.5))
    again = HeadScores.from_dict(json.loads(json.dumps(scores.to_dict())))
    assert again == scores
    assert again.cost == scores.cost
    with pytest.raises(ValueError, match="read-only"):
        scores.values[0, 0] = 1
    for bad in ([[1.0, float("nan")]], [1.0], [[]]):
        with pytest.raises(ValueError, match="finite"):
            HeadScores(bad, BY)
    content = scores.to_dict()
    for change in (
        {"scores": None},
        {"cost": {"seconds": "long"}},
        {"provenance": {"method": ["x"]}},
        {"provenance": {"method": "x", "seed": "1"}},
    ):
        with pytest.raises(InputError, match="not a valid file of head scores"):
            HeadScores.from_dict(content | change)
    with pytest.raises(InputError, match="not a valid set of heads"):
        HeadSet.from_dict(chosen({(1, 1)}).to_dict() | {"provenance": {"method": 1}})


@pytest.mark.parametrize(("total", "first", "second"), [(6, 2, 3), (5, 5, 2), (6, 4, 4), (4, 0, 2)])
def test_expected_jaccard_is_the_mean_over_all_pairs_of_sets(total: int, first: int, second: int) -> None:
    fixed = set(range(first))
    values = [
        len(fixed & set(other)) / len(fixed | set(other)) for other in itertools.combinations(range(total), second)
    ]
    assert expected_jaccard(total, first, second) == pytest.approx(np.mean(values))


def test_overlap_counts_and_its_p_value_is_exact() -> None:
    a, b = HeadSet(2, 4, [(0, 0), (0, 1), (0, 2)]), HeadSet(2, 4, [(0, 1), (0, 2), (1, 0)])
    found = overlap(a, b)
    assert (found.common, found.jaccard) == (2, 0.5)
    shared = [len({0, 1, 2} & set(other)) for other in itertools.combinations(range(8), 3)]
    assert found.p_value == pytest.approx(np.mean(np.array(shared) >= 2))
    assert found.expected_common == pytest.approx(np.mean(shared))
    assert jaccard(HeadSet(2, 4, []), HeadSet(2, 4, [])) == 1


def test_rank_correlation_sees_order_alone() -> None:
    values = np.arange(12.0).reshape(3, 4)
    same = rank_correlation(HeadScores(values, BY), HeadScores(np.exp(values), BY))
    assert same.spearman == pytest.approx(1)
    assert same.kendall == pytest.approx(1)
    assert same.kendall_p < 1e-4
    assert rank_correlation(HeadScores(values, BY), HeadScores(-values, BY)).spearman == pytest.approx(-1)
    assert np.isnan(rank_correlation(HeadScores(values, BY), HeadScores(np.ones((3, 4)), BY)).spearman)
    with pytest.raises(InputError, match="cannot be compared"):
        rank_correlation(HeadScores(values, BY), HeadScores(values.T, BY))


def test_bootstrap_pairs_items() -> None:
    generator = np.random.default_rng(0)
    easy = generator.random(400) < 0.5
    better = easy | (generator.random(400) < 0.08)  # right wherever the other is, and on a few more
    found = paired_bootstrap(better, easy)
    assert found.difference == pytest.approx(better.mean() - easy.mean())
    assert 0 < found.low < found.difference < found.high
    assert found.p_value < 0.01
    # Without pairs, the same two accuracies are distinguished less clearly.
    shuffled = paired_bootstrap(better, generator.permutation(easy))
    assert shuffled.high - shuffled.low > 2 * (found.high - found.low)
    nothing = paired_bootstrap(easy, easy)
    assert (nothing.difference, nothing.p_value) == (0, 1)
    assert paired_bootstrap(better, easy) == found
    with pytest.raises(ValueError, match="Pairs"):
        paired_bootstrap(better, easy[1:])


def test_bootstrap_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        a, b = generator.random(150) < 0.7, generator.random(150) < 0.6
        found = paired_bootstrap(a, b, seed=trial, resamples=500)
        covered += found.low <= 0.1 <= found.high
    assert 180 <= covered <= 199


def test_accuracy_over_seeds_has_students_interval_over_seeds() -> None:
    right = np.arange(200) % 2 == 0
    mean, low, high = accuracy_interval([right, np.arange(200) < 120, np.arange(200) < 80])
    values = np.array([0.5, 0.6, 0.4])
    half = 4.302652729911275 * values.std(ddof=1) / 3**0.5  # the 97.5 % quantile of t with 2 degrees of freedom
    assert (mean, low, high) == (pytest.approx(0.5), pytest.approx(0.5 - half), pytest.approx(0.5 + half))
    assert accuracy_interval([np.ones(200), right, np.zeros(200)])[1:] == (0, 1), "a share stays within 0 and 1"
    assert accuracy_interval([right, right]) == (0.5, None, None)
    mean, low, high = accuracy_interval(right)
    assert (mean, round(low or 0, 3), round(high or 0, 3)) == (0.5, 0.431, 0.569)  # Wilson's for 100 of 200


@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_intervals_of_a_comparison_hold_their_level(seeds: int) -> None:
    """Methods whose true accuracies vary from seed to seed, each with the same seeds and test examples as JoLA."""
    generator = np.random.default_rng(seeds)
    accuracy, gain, items, trials = 0.75, 0.03, 200, 1500
    covered, different, rejected = 0, 0, 0
    for _ in range(trials):
        level = 0.02 * generator.standard_normal((seeds, 1))  # the effect of a seed's examples on both
        own = level + 0.02 * generator.standard_normal((2, seeds, 1))
        draws = generator.random((2, seeds, items))
        jola, same = draws < accuracy + own
        other = draws[1] < accuracy + gain + own[1]
        _, low, high = accuracy_interval(jola)
        covered += low is not None and high is not None and low <= accuracy <= high
        found = mean_over_seeds((other.mean(1) - jola.mean(1)).tolist())
        different += found.low is not None and found.high is not None and found.low <= gain <= found.high
        p_value = mean_over_seeds((same.mean(1) - jola.mean(1)).tolist()).p_value
        rejected += p_value is not None and p_value < 0.05
    assert 0.93 <= covered / trials <= 0.97
    assert 0.93 <= different / trials <= 0.97
    assert 0.03 <= rejected / trials <= 0.07


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([1.2])


@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_the_interval_over_seeds_holds_its_level(seeds: int) -> None:
    """Accuracies on 500 test examples, of training runs whose true accuracies vary from seed to seed."""
    generator = np.random.default_rng(seeds)
    accuracy = 0.8
    trained = accuracy + 0.02 * generator.standard_normal((4000, seeds))
    measured = generator.binomial(500, trained) / 500
    found = [mean_over_seeds(values) for values in measured]
    covered = np.mean([f.low <= accuracy <= f.high for f in found if f.low is not None and f.high is not None])
    assert 0.93 <= covered <= 0.97
    rejected = np.mean([f.p_value < 0.05 for f in map(mean_over_seeds, measured - accuracy) if f.p_value is not None])
    assert 0.03 <= rejected <= 0.07


def test_one_seed_and_equal_seeds_have_no_interval() -> None:
    assert mean_over_seeds([0.5]) == SeedMean(0.5, None, None, None, 1)
    assert mean_over_seeds([0.8, 0.8, 0.8]) == SeedMean(pytest.approx(0.8), None, None, None, 3)
