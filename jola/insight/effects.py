r"""The effect of each edit on the output of the model.

For an edit half e that is on, with everything else unchanged, and a measure m of `jola.insight.measures`,

    effect(e) = m(prompt; all edits) − m(prompt; all edits except e)     log_probability, logit_difference; nats
    effect(e) = KL(all edits ‖ all edits except e)                       kl; nats

An edit in layer l does not affect earlier layers. Therefore, one pass with all edits stores the residual stream at the
input of each layer, and the pass without e starts from there. These passes are rows of one batch; each row is added at
the layer of its edit. The last MLP and the language-model head run only at the positions that the measure uses. The
results equal those of one full pass per edit.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from threading import Event

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from jola.data.examples import Example, Template
from jola.edits.intervention import EditMask
from jola.edits.sites import Site
from jola.errors import InputError
from jola.insight.measures import (
    Divergence,
    LogitDifference,
    LogProbability,
    Measure,
    Scorer,
    check_measure,
    mean_interval,
)
from jola.insight.predictions import answer_scores
from jola.insight.prompts import Prompt, answer_ids, answer_of, prompt_ids, shared_mask
from jola.model.edited import EditedModel, Masks
from jola.model.resting import at_rest
from jola.model.tracing import Plan, Wanted

Progress = Callable[[int, int], None]
"""Called with (done, total), in edits."""

Stop = Event | Callable[[], bool]
"""Checked between passes; the computation stops if the event is set or the function returns true."""

CHUNK_TOKENS = {"cpu": 512}
"""Maximum number of tokens of all rows of a pass, by device type; larger passes exceed the cache of the CPU."""
CHUNK_TOKENS_ELSEWHERE = 16384

ROUNDING_ROWS = 8
"""Number of rows that differ only by rounding, used to estimate the rounding error."""


class Stopped(Exception):
    """`stop` ended the computation before it was complete."""


@dataclass(frozen=True)
class EditRef:
    """One channel of one unit (`half`); `intervention` is its index in `EditedModel.in_use`."""

    site: str
    layer: int
    unit: int
    half: str
    intervention: int = 0


@dataclass(frozen=True)
class EditEffects:
    """Effects of switching off single edit halves, in nats. Arrays have one entry per edit, in the order of `edits`.

    `base` and `edited` are the measure without edits and with all edits (means over the examples). For one prompt,
    `low` and `high` are NaN; for `n` examples, they are the bounds of the 95 % interval of the mean (Student's t).
    `rounding` estimates the standard deviation of the measure due to the data type of the model, for one prompt; an
    effect of up to twice this value may be a rounding error. It is set to 0 in float32, where it is below 1e-4, and NaN
    for a mean, whose interval already includes rounding. `seconds` and `passes` are totals. `one_by_one_seconds`
    estimates the time of one full pass per edit and example from the timed pass with all edits. `wrong` is the wrong
    answer of the logit difference for one prompt.
    """

    edits: tuple[EditRef, ...]
    effect: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    n: int
    base: float
    edited: float
    rounding: float
    seconds: float
    passes: int
    one_by_one_seconds: float
    measure: Measure = "log_probability"
    wrong: str = ""

    @property
    def times_faster(self) -> float:
        """Estimated speed-up over one full pass per edit: `one_by_one_seconds` / `seconds`."""
        return self.one_by_one_seconds / max(self.seconds, 1e-9)

    def to_frame(self) -> pd.DataFrame:
        """One row per edit half: its location, its effect in nats, the interval, n, and the measure."""
        frame = _places(self.edits).assign(effect_nats=self.effect, low_nats=self.low, high_nats=self.high, n=self.n)
        return frame.assign(measure=self.measure)


def open_edits(model: EditedModel, mask: Masks = None, strength: float = 1.0) -> tuple[EditRef, ...]:
    """The edit halves that are on (in use, gate above 0, not switched off by the mask), sorted by layer."""
    if strength == 0:
        return ()
    found: list[tuple[int, EditRef]] = []
    for position, (edits, own) in enumerate(zip(model.in_use, shared_mask(model, mask), strict=True)):
        for rank, (channel, on) in enumerate(edits.on().items()):
            if own is not None:
                on = on & (own[channel].to(on.device) != 0)
            ref = EditRef(str(edits.site), 0, 0, channel, position)
            found += [(rank, replace(ref, layer=layer, unit=unit)) for layer, unit in on.nonzero().tolist()]
    found.sort(key=lambda entry: (entry[1].layer, entry[1].intervention, entry[1].site, entry[1].unit, entry[0]))
    return tuple(ref for _, ref in found)


def edit_effects(
    model: EditedModel,
    prompt: Prompt,
    answer: str | None = None,
    *,
    measure: Measure = "log_probability",
    wrong: str | Sequence[str] = (),
    mask: Masks = None,
    strength: float = 1.0,
    template: Template | None = None,
    only: Collection[EditRef] | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> EditEffects:
    """The effect of every edit that is on, for one prompt.

    Args:
        prompt: A user message, an example, or token ids.
        answer: The answer without its end token, which is also scored; None uses the completion of the example. Unused
            by the measure ``kl``.
        measure: ``log_probability`` of the answer, ``logit_difference`` between the answer and a wrong one, or ``kl``
            of the next token; see `jola.insight.measures`.
        wrong: The wrong answer of the logit difference. If there are several, such as the labels of a task, the most
            likely one with all edits is used that is not the answer.
        mask, strength: As in `EditedModel.forward`, without a batch dimension.
        template: Chat template; None uses the default for the tokenizer.
        only: Measure only these edits.
        progress, stop: Called between passes.

    Raises:
        InputError: The answer or a wrong answer that the measure needs is missing, or the prompt is empty.
        Stopped: `stop` ended the computation.
    """
    template = template or Template(model.tokenizer)
    wanted = _wanted(measure, wrong, mask, strength, template)
    ids = prompt_ids(model, prompt, template)
    right = answer_of(prompt, answer) if measure != "kl" else ""
    started = time.perf_counter()
    with at_rest(model):
        scorer, other = wanted.scorer(model, ids, right)
        edits = _chosen(open_edits(model, mask, strength), only)
        masks, watch = shared_mask(model, mask), _Watch(progress, stop)
        one = _measure(model, scorer, edits, masks, strength, watch, rounding=True)
    nothing = np.full(len(edits), np.nan)
    return EditEffects(
        edits=edits,
        effect=one.effect,
        low=nothing,
        high=nothing.copy(),
        n=1,
        base=one.base,
        edited=one.edited,
        rounding=one.rounding,
        seconds=time.perf_counter() - started,
        passes=one.passes,
        one_by_one_seconds=one.pass_seconds * len(edits),
        measure=measure,
        wrong=other,
    )


def mean_edit_effects(
    model: EditedModel,
    examples: Sequence[Example],
    *,
    measure: Measure = "log_probability",
    wrong: str | Sequence[str] = (),
    mask: Masks = None,
    strength: float = 1.0,
    template: Template | None = None,
    only: Collection[EditRef] | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> EditEffects:
    """The mean effect of every edit that is on over examples and their right answers, with its 95 % interval.

    Each interval is for one edit and the mean over examples like these; among many edits, some intervals do not contain
    the true mean. Arguments and errors as for `edit_effects`; ``wrong`` is chosen for each example.
    """
    if not examples:
        raise InputError("There are no examples; give at least one.")
    template = template or Template(model.tokenizer)
    wanted = _wanted(measure, wrong, mask, strength, template)
    started = time.perf_counter()
    with at_rest(model):
        edits, masks = _chosen(open_edits(model, mask, strength), only), shared_mask(model, mask)
        watch = _Watch(progress, stop, len(examples))
        ones = []
        for example in examples:
            watch.check()
            scorer, _ = wanted.scorer(model, template.encode_prompt(example), answer_of(example, None))
            ones.append(_measure(model, scorer, edits, masks, strength, watch))
    effects = np.stack([one.effect for one in ones])
    mean, low, high = mean_interval(effects)
    return EditEffects(
        edits=edits,
        effect=mean,
        low=low,
        high=high,
        n=len(ones),
        base=float(np.mean([one.base for one in ones])),
        edited=float(np.mean([one.edited for one in ones])),
        rounding=float("nan"),
        seconds=time.perf_counter() - started,
        passes=sum(one.passes for one in ones),
        one_by_one_seconds=sum(one.pass_seconds for one in ones) * len(edits),
        measure=measure,
    )


@dataclass(frozen=True)
class _Wanted:
    """The measure and its arguments."""

    measure: Measure
    wrong: Sequence[str]
    """Candidates for the wrong answer."""
    mask: Masks
    strength: float
    template: Template

    def scorer(self, model: EditedModel, ids: Sequence[int], right: str) -> tuple[Scorer, str]:
        """The scorer of a prompt, and the wrong answer that it uses, or an empty text."""
        if self.measure == "kl":
            return Divergence(model, ids), ""
        tokens = answer_ids(model, right, self.template)
        if self.measure == "log_probability":
            return LogProbability(model, ids, tokens), ""
        wrong = self._wrong_answer(model, ids, right)
        return LogitDifference(model, ids, tokens, answer_ids(model, wrong, self.template)), wrong

    def _wrong_answer(self, model: EditedModel, ids: Sequence[int], right: str) -> str:
        """The candidate, other than the right answer, that is most likely with all edits."""
        others = [text for text in dict.fromkeys(self.wrong) if text.strip() and text.strip() != right.strip()]
        if not others:
            raise InputError("The logit difference needs a wrong answer; give one that differs from the right answer.")
        if len(others) == 1:
            return others[0]
        scores = answer_scores(model, ids, others, mask=self.mask, strength=self.strength, template=self.template)
        return others[int(scores.edited.argmax())]


def _wanted(measure: Measure, wrong: str | Sequence[str], mask: Masks, strength: float, template: Template) -> _Wanted:
    check_measure(measure)
    return _Wanted(measure, [wrong] if isinstance(wrong, str) else list(wrong), mask, strength, template)


@dataclass(frozen=True)
class _One:
    """Effects for one prompt; `pass_seconds` is the time of the pass with all edits."""

    effect: NDArray[np.float64]
    base: float
    edited: float
    rounding: float
    passes: int
    pass_seconds: float


class _Watch:
    """Report progress and check whether to stop."""

    def __init__(self, progress: Progress | None, stop: Stop | None, examples: int = 1) -> None:
        self._progress, self._examples, self._done = progress, examples, 0
        self._stop = stop.is_set if isinstance(stop, Event) else stop

    def check(self) -> None:
        """Raise `Stopped` if the caller asked to stop."""
        if self._stop is not None and self._stop():
            raise Stopped("Stopped before all edits were measured.")

    def add(self, done: int, total: int) -> None:
        """Report that `done` more edits were measured, of `total` per example."""
        self._done += done
        if self._progress is not None:
            self._progress(self._done, total * self._examples)


def _measure(
    model: EditedModel,
    scorer: Scorer,
    edits: Sequence[EditRef],
    masks: Sequence[EditMask | None],
    strength: float,
    watch: _Watch,
    rounding: bool = False,
) -> _One:
    watch.check()
    base = scorer.logits({})
    watch.check()
    if any(i.site is Site.WEIGHTS for i in model.in_use):
        return _measure_one_by_one(model, scorer, edits, masks, strength, watch, base, rounding)
    plan, places = model.plan(masks, strength, 1, scorer.prompt), sorted({e.layer for e in edits})
    # Timed after the base pass, so that the one-time cost of a first pass is excluded.
    started = time.perf_counter()
    record = model.traced.record(scorer.inputs, plan, Wanted(entering=places), rows=scorer.rows(1))
    scorer.refer_to(record.logits)
    edited = float(scorer.values(record.logits))
    pass_seconds = time.perf_counter() - started

    size = max(1, CHUNK_TOKENS.get(model.device.type, CHUNK_TOKENS_ELSEWHERE) // scorer.tokens)
    without, passes, noise = [], 2, 0.0
    if rounding and edits and model.base.dtype is not torch.float32:
        noise, passes = _rounding(scorer, plan, places[0], record.entering[places[0]]), 3
    for chunk in _chunks(edits, size):
        watch.check()
        entering = {
            layer: record.entering[layer].expand(count, -1, -1)
            for layer, count in Counter(e.layer for e in chunk).items()
        }
        off = _plan_without(model, chunk, masks, strength, plan, scorer.prompt)
        without.append(scorer.values(scorer.logits(off, entering)))
        passes += 1
        watch.add(len(chunk), len(edits))
    return _One(_effects(scorer, edited, without), float(scorer.values(base)), edited, noise, passes, pass_seconds)


def _effects(scorer: Scorer, edited: float, without: Sequence[Tensor]) -> NDArray[np.float64]:
    return scorer.effects(edited, torch.cat(list(without))).numpy() if without else np.empty(0)


def _measure_one_by_one(
    model: EditedModel,
    scorer: Scorer,
    edits: Sequence[EditRef],
    masks: Sequence[EditMask | None],
    strength: float,
    watch: _Watch,
    base: Tensor,
    rounding: bool,
) -> _One:
    """Run one pass for each edit, because all rows of a batch share the weights."""
    first = [edits[0].layer] if edits else []
    without, passes, noise = [], 2 + len(edits), 0.0
    started = time.perf_counter()
    with model.editing(masks, strength, prompt=scorer.prompt) as plan:
        record = model.traced.record(scorer.inputs, plan, Wanted(entering=first), rows=scorer.rows(1))
        scorer.refer_to(record.logits)
        edited = float(scorer.values(record.logits))
        pass_seconds = time.perf_counter() - started
        if rounding and edits and model.base.dtype is not torch.float32:
            noise, passes = _rounding(scorer, plan, first[0], record.entering[first[0]]), passes + 1
    for edit in edits:
        watch.check()
        alone = [
            None if own is None else own.map(lambda f: f[0]) if own.by_row else own
            for own in masks_without(model, [edit], masks)
        ]
        with model.editing(alone, strength, prompt=scorer.prompt) as plan:
            without.append(scorer.values(scorer.logits(plan)))
        watch.add(1, len(edits))
    effects = _effects(scorer, edited, without)
    return _One(effects, float(scorer.values(base)), edited, noise, passes, pass_seconds)


def _rounding(scorer: Scorer, plan: Plan, layer: int, hidden: Tensor) -> float:
    """Change of the measure when each input of a layer changes by at most one rounding step."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.randint(-1, 2, (ROUNDING_ROWS, *hidden.shape[1:]), generator=generator).to(hidden)
    moved = {layer: hidden * (1 + steps * torch.finfo(hidden.dtype).eps / 2)}
    return scorer.rounding(scorer.values(scorer.logits(plan, moved)))


def _chunks(edits: Sequence[EditRef], size: int) -> Iterator[Sequence[EditRef]]:
    """Split into passes of nearly equal size, because a pass with one row costs nearly as much as a full one."""
    count = -(-len(edits) // size)
    for part in range(count):
        yield edits[part * len(edits) // count : (part + 1) * len(edits) // count]


def _plan_without(
    model: EditedModel,
    chunk: Sequence[EditRef],
    masks: Sequence[EditMask | None],
    strength: float,
    plan: Plan,
    prompt: Tensor,
) -> Plan:
    """The plan of a pass in which row i lacks the i-th edit of `chunk`, which is sorted by layer.

    At layers where rows are added, each row has its own mask; at all other layers, every row has the edits of `plan`.
    """
    result = dict(plan)
    for layer in {e.layer for e in chunk}:
        under_way = [e for e in chunk if e.layer <= layer]
        own = model.plan(masks_without(model, under_way, masks), strength, len(under_way), prompt)
        for place in list(result):
            if place[0] == layer:
                del result[place]
        result.update({place: edit for place, edit in own.items() if place[0] == layer})
    return result


def masks_without(
    model: EditedModel, edits: Sequence[EditRef], masks: Sequence[EditMask | None]
) -> list[EditMask | None]:
    """Masks with one row per edit, which switches off this edit in addition to those that `masks` switch off."""
    result: list[EditMask | None] = []
    for position, (own, given) in enumerate(zip(model.in_use, masks, strict=True)):
        here = [(row, edit) for row, edit in enumerate(edits) if edit.intervention == position]
        if not here:
            result.append(given)
            continue
        factors = {c: f.float().repeat(len(edits), 1, 1) for c, f in (given or EditMask.all(own)).items()}
        for row, edit in here:
            factors[edit.half][row, edit.layer, edit.unit] = 0
        result.append(EditMask(**factors))
    return result


def _chosen(edits: tuple[EditRef, ...], only: Collection[EditRef] | None) -> tuple[EditRef, ...]:
    if only is None:
        return edits
    wanted = set(only)
    return tuple(edit for edit in edits if edit in wanted)


def _places(edits: Sequence[EditRef]) -> pd.DataFrame:
    columns = ("site", "layer", "unit", "half", "intervention")
    return pd.DataFrame({name: [getattr(edit, name) for edit in edits] for name in columns})
