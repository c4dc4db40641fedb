"""Tables of the training runs of `benchmarks/training_experiments.py`, over policies, arms and seeds."""

import itertools
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from benchmarks.pages import markdown
from benchmarks.training_experiments import DEFAULT_ARM
from benchmarks.training_results import (
    DEFAULT,
    EARLY,
    OPEN_ABOVE,
    POLICIES,
    Group,
    Policy,
    Summary,
    Training,
    agreement,
    summarise,
)


def overview(trainings: Iterable[Training], arms: dict[str, str]) -> str:
    """Return the tables over all tasks and data types as Markdown; `arms` as for `tables`."""
    groups = _grouped(trainings)
    return "\n\n".join([*_tests(groups, arms), *_cost_of_gates(groups), *_other_settings(groups, arms)])


def of_defaults(trainings: Iterable[Training]) -> str:
    """Return the test accuracy of training runs with the default settings, by task and data type, as Markdown."""
    policy = POLICIES[DEFAULT]
    rows, sizes = [], set()
    for (task, _, dtype), members in sorted(_grouped(trainings).items()):
        tested = _tested(members, DEFAULT_ARM)
        if tested:
            found = summarise([accuracy for _, accuracy in tested])
            sizes |= {t.data["test"][policy.kept(t).name]["n"] for t, _ in tested}
            seeds, accuracy, deviation, _ = _cells(found)
            closed = _closed([t for t, _ in tested], policy)
            rows.append([task, dtype, seeds, accuracy, deviation, f"{found.worst:.3f}", closed])
    if not rows:
        return "No training has been tested."
    heads = ["task", "dtype", "seeds", "accuracy (95 % interval)", "SD", "worst seed", "closed offset / scale gates"]
    return f"n = {_list(sizes)} test examples for each training seed:\n\n{markdown([heads, *rows])}"


def tables(trainings: Iterable[Training], arms: dict[str, str]) -> str:
    """Return the tables of each task and data type as Markdown; `arms` maps arms, in order, to descriptions."""
    parts = []
    for (task, data_seed, dtype), members in sorted(_grouped(trainings).items(), key=lambda item: -len(item[1])):
        order = sorted({t.arm for t in members}, key=list(arms).index)
        by_arm = {arm: {t.seed: t for t in members if t.arm == arm} for arm in order}
        n, held_out = members[0].data["n"], next(iter(members[0].data["held_out"].values()))["n"]
        parts += [
            f"## {task}, {dtype}\n\nData seed {data_seed}; examples: {n['train']} for training, {n['validation']} for "
            f"validation, {held_out} held out.",
            *_policies(members),
            *_arms(by_arm, arms),
            *_seeds(by_arm),
            *_agreements(by_arm),
        ]
    return "\n\n".join(parts)


def _grouped(trainings: Iterable[Training]) -> dict[Group, list[Training]]:
    groups: dict[Group, list[Training]] = defaultdict(list)
    for training in trainings:
        groups[training.group].append(training)
    return groups


def _tests(groups: Mapping[Group, Sequence[Training]], arms: Iterable[str]) -> Iterable[str]:
    """Yield the table of test accuracies of the parameters that the default policy keeps."""
    policy = POLICIES[DEFAULT]
    rows, sizes = [], set()
    for (task, _, dtype), members in sorted(groups.items()):
        for arm in arms:
            tested = _tested(members, arm)
            if tested:
                values = [accuracy for _, accuracy in tested]
                found = summarise(values)
                sizes |= {t.data["test"][policy.kept(t).name]["n"] for t, _ in tested}
                rows.append(
                    [
                        task,
                        dtype,
                        f"`{arm}`",
                        *_cells(found),
                        f"{found.mean - found.worst:.3f}",
                        _closed([t for t, _ in tested], policy),
                        ", ".join(f"{value:.3f}" for value in values),
                    ]
                )
    if rows:
        yield "## Test examples"
        yield f"{policy.about[0].upper()}{policy.about[1:]}; exact match of generated answers, n = {_list(sizes)}:"
        heads = ["task", "dtype", "arm", *_HEADS, "mean minus worst", "closed offset / scale gates", "by seed"]
        yield markdown([heads, *rows])


def _tested(trainings: Iterable[Training], arm: str) -> list[tuple[Training, float]]:
    """Return the tested training runs of an arm, by seed, each with the test accuracy of the default policy."""
    found = {t.seed: (t, t.tested(POLICIES[DEFAULT])) for t in trainings if t.arm == arm}
    return [(t, accuracy) for _, (t, accuracy) in sorted(found.items()) if accuracy is not None]


def _closed(trainings: Iterable[Training], policy: Policy) -> str:
    """Format the mean share of gates that are exactly 0 in the parameters that a policy keeps, by half."""
    shares = []
    for half in ("offset", "scale"):
        gated = [t for t in trainings if half in t.data["phi"]]
        closed = [1 - policy.kept(t).open[half] / len(t.data["phi"][half]) for t in gated]
        shares.append(f"{100 * statistics.fmean(closed):.0f} %" if closed else "–")
    return " / ".join(shares)


def _cost_of_gates(groups: Mapping[Group, Sequence[Training]]) -> Iterable[str]:
    """Yield the table of accuracy with minus without gates, on held-out and test examples, by task and on average."""
    policy = POLICIES[DEFAULT]
    rows = []
    scores: dict[str, Callable[[Training], float | None]] = {
        "held out": lambda training: training.held_out(policy)[0],
        "test": lambda training: training.tested(policy),
    }
    for part, score in scores.items():
        by_dtype: dict[str, list[dict[int, float]]] = defaultdict(list)
        for (task, _, dtype), members in sorted(groups.items()):
            found: dict[str, dict[int, float]] = {DEFAULT_ARM: {}, "no-gates": {}}
            for training in members:
                if training.arm in found and (value := score(training)) is not None:
                    found[training.arm][training.seed] = value
            with_gates, without = found.values()
            changes = {seed: with_gates[seed] - without[seed] for seed in sorted(with_gates.keys() & without.keys())}
            if changes:
                by_dtype[dtype].append(changes)
                rows.append([task, dtype, part, str(len(changes)), _difference(list(changes.values()))])
        for dtype, tasks in by_dtype.items():
            seeds = sorted(set[int].intersection(*(set(changes) for changes in tasks)))
            if len(tasks) > 1 and seeds:
                means = [statistics.fmean(changes[seed] for changes in tasks) for seed in seeds]
                rows.append([f"mean of {len(tasks)} tasks", dtype, part, str(len(seeds)), _difference(means)])
    if rows:
        yield "## What gates cost"
        yield f"Accuracy of `{DEFAULT_ARM}` minus that of `no-gates`, paired by seed; {policy.about}:"
        yield markdown([["task", "dtype", "examples", "seeds", "difference (95 % interval)"], *rows])


def _other_settings(groups: Mapping[Group, Sequence[Training]], arms: dict[str, str]) -> Iterable[str]:
    """Yield the table of what each arm changes on held-out examples, over tasks.

    The unit is the task: the mean difference over the seeds that an arm shares with the baseline there.
    """
    policy = POLICIES[DEFAULT]
    pairs: dict[tuple[str, str], dict[str, list[tuple[Training, Training]]]] = defaultdict(lambda: defaultdict(list))
    for (task, _, dtype), members in sorted(groups.items()):
        baseline = {t.seed: t for t in members if t.arm == DEFAULT_ARM}
        for training in members:
            if training.arm != DEFAULT_ARM and training.seed in baseline:
                pairs[dtype, training.arm][task].append((training, baseline[training.seed]))
    rows = []
    for (dtype, arm), tasks in sorted(pairs.items(), key=lambda item: (item[0][0], list(arms).index(item[0][1]))):
        changes = {
            task: statistics.fmean(one.held_out(policy)[0] - other.held_out(policy)[0] for one, other in both)
            for task, both in tasks.items()
        }
        both = [pair for found in tasks.values() for pair in found]
        rows.append(
            [
                f"{arms[arm]} (`{arm}`)",
                dtype,
                f"{len(changes)} ({len(both)})",
                _difference(list(changes.values()), "one task"),
                ", ".join(f"{task} {change:+.3f}" for task, change in changes.items()),
                _closed([one for one, _ in both], policy),
                _closed([other for _, other in both], policy),
            ]
        )
    if rows:
        yield "## What other settings change"
        yield (
            "Held-out accuracy minus that of the default settings, paired by seed; mean of tasks, with the interval "
            f"over tasks; {policy.about}. *closed*: share of the offset / scale gates that are exactly 0, and that of "
            "the defaults with the same tasks and seeds:"
        )
        heads = ["arm", "dtype", "tasks (runs)", "difference (95 % interval)", "by task", "closed", "defaults"]
        yield markdown([heads, *rows])


def _policies(members: Sequence[Training]) -> Iterable[str]:
    """Yield the tables of policies for the defaults, for edits without gates, for a late λ, and for all arms.

    Training runs with the same seed share the order of the examples and the initial edits, so the unit is the seed.
    """
    for title, chosen in (
        *((f"arm `{arm}`", [t for t in members if t.arm == arm]) for arm in (DEFAULT_ARM, "no-gates", "late-l0")),
        ("all arms, the mean over a seed's training runs being its value", list(members)),
    ):
        by_seed: dict[int, list[Training]] = defaultdict(list)
        for training in chosen:
            by_seed[training.seed].append(training)
        if not chosen or (len({t.arm for t in members}) == 1 and title.startswith("all")):
            continue
        yield f"**Policies**, {title}; training seeds {_list(by_seed)}; training runs: {len(chosen)}"
        rows = []
        for policy in POLICIES.values():
            if not all(policy.kept(training).name in training.data["held_out"] for training in members):
                continue
            accuracy = {s: statistics.fmean(t.held_out(policy)[0] for t in ts) for s, ts in by_seed.items()}
            change = [
                value - statistics.fmean(t.held_out(POLICIES[EARLY])[0] for t in by_seed[seed])
                for seed, value in accuracy.items()
            ]
            rows.append(
                [
                    policy.about,
                    *_cells(summarise(list(accuracy.values()))),
                    f"{min(t.held_out(policy)[0] for t in chosen):.2f}",
                    *(("–", "–") if policy is POLICIES[EARLY] else (_difference(change), _better(chosen, policy))),
                    f"{statistics.fmean(t.held_out(policy)[1] for t in chosen):.3f}",
                    f"{statistics.fmean(policy.epochs_run(t) for t in chosen):.1f}",
                ]
            )
        heads = [
            "policy",
            *_HEADS,
            "worst training",
            "minus the first row",
            "training runs better / worse",
            "cross-entropy",
            "epochs",
        ]
        yield markdown([heads, *rows])


def _better(trainings: Sequence[Training], policy: Policy) -> str:
    """Format the numbers of training runs that end better and worse with a policy than with `EARLY`."""
    change = [t.held_out(policy)[0] - t.held_out(POLICIES[EARLY])[0] for t in trainings]
    return f"{sum(c > 0 for c in change)} / {sum(c < 0 for c in change)}"


_HEADS = ["seeds", "accuracy (95 % interval)", "SD", "worst seed"]


def _arms(by_arm: dict[str, dict[int, Training]], arms: dict[str, str]) -> Iterable[str]:
    baseline = by_arm.get("baseline")
    if baseline is None or len(by_arm) == 1:
        return
    for name in (DEFAULT, "full-last"):
        policy = POLICIES[name]
        yield f"**Arms**, {policy.about}; differences are paired by seed:"
        rows = []
        for arm, by_seed in by_arm.items():
            accuracy = {seed: t.held_out(policy)[0] for seed, t in by_seed.items()}
            both = [seed for seed in accuracy if seed in baseline]
            loss = [by_seed[s].held_out(policy)[1] for s in by_seed]
            accuracy_change = [accuracy[s] - baseline[s].held_out(policy)[0] for s in both]
            loss_change = [by_seed[s].held_out(policy)[1] - baseline[s].held_out(policy)[1] for s in both]
            rows.append(
                [
                    f"{arms[arm]} (`{arm}`)",
                    *_cells(summarise(list(accuracy.values()))),
                    "–" if arm == "baseline" or not both else _difference(accuracy_change),
                    f"{statistics.fmean(loss):.3f}",
                    "–" if arm == "baseline" or not both else _difference(loss_change),
                    _open(by_seed.values()),
                ]
            )
        heads = ["arm", *_HEADS, "minus baseline", "cross-entropy", "minus baseline", "open offset / scale"]
        yield markdown([heads, *rows])


def _open(trainings: Iterable[Training]) -> str:
    """Format the mean share of gates that are open after the last step, by half."""
    shares = []
    for half in ("offset", "scale"):
        phi = [t.data["phi"][half] for t in trainings if half in t.data["phi"]]
        if not phi:
            return "–"
        shares.append(statistics.fmean(value > OPEN_ABOVE for values in phi for value in values))
    return " / ".join(f"{100 * share:.0f} %" for share in shares)


def _seeds(by_arm: dict[str, dict[int, Training]]) -> Iterable[str]:
    yield "**Every training**, validation after each epoch, and held-out accuracy by policy:"
    rows = []
    for arm, by_seed in by_arm.items():
        for seed, training in sorted(by_seed.items()):
            kept = [training.held_out(POLICIES[name])[0] for name in (EARLY, DEFAULT, "full-last")]
            rows.append(
                [
                    f"`{arm}`",
                    str(seed),
                    " ".join(f"{epoch.cross_entropy:.2f}" for epoch in training.epochs),
                    " ".join(f"{epoch.accuracy:.2f}" for epoch in training.epochs),
                    f"{POLICIES[EARLY].kept(training).step} of {POLICIES[EARLY].stops(training).step}",
                    *(f"{accuracy:.3f}" for accuracy in kept),
                ]
            )
    heads = ["arm", "seed", "cross-entropy", "accuracy", "kept with patience 3", "held out", "default", "last epoch"]
    yield markdown([heads, *rows])


def _agreements(by_arm: dict[str, dict[int, Training]]) -> Iterable[str]:
    rows = []
    for arm, by_seed in by_arm.items():
        for half in ("offset", "scale"):
            phi = [t.data["phi"][half] for _, t in sorted(by_seed.items()) if half in t.data["phi"]]
            found = [agreement(a, b) for a, b in itertools.combinations(phi, 2)]
            if found:
                rows.append(
                    [
                        f"`{arm}`",
                        half,
                        str(len(phi)),
                        _span([one.spearman for one in found]),
                        _span([one.jaccard for one in found]),
                        f"{statistics.fmean(one.chance for one in found):.2f}",
                    ]
                )
    if rows:
        yield "**Agreement of the gates between training seeds** after the last step, mean over pairs of seeds (range):"
        heads = ["arm", "half", "seeds", "Spearman's ρ of φ", "Jaccard index of open gates", "by chance"]
        yield markdown([heads, *rows])


def _span(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.2f}" + (f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else "")


def _cells(summary: Summary) -> list[str]:
    interval = "" if summary.low is None else f" ({summary.low:.3f} to {summary.high:.3f})"
    deviation = "–" if summary.deviation is None else f"{summary.deviation:.3f}"
    return [str(summary.n), f"{summary.mean:.3f}{interval}", deviation, f"{summary.worst:.2f}"]


def _difference(values: Sequence[float], one: str = "one seed") -> str:
    found = summarise(values)
    interval = one if found.low is None else f"{found.low:+.3f} to {found.high:+.3f}"
    return f"{found.mean:+.3f} ({interval})"


def _list(values: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(values)))
