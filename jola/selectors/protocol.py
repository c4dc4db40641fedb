"""The interface of selectors and their shared parts: budget, examples, and factors on whole heads.

    scores = DSP()(model, task.train, k=32, seed=42)
    heads = scores.top(32)

A selector uses only the frozen model: it neither uses nor changes the edits of the `JoLAModel`.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jola.config import DataConfig, TrainingConfig
from jola.data.examples import IGNORED, Encoded, Example, Template, collate, encode_examples, pad_token_of
from jola.edits.gated import GatedEdits
from jola.edits.intervention import Edit, EditMask, Intervention
from jola.edits.sites import Site
from jola.errors import InputError
from jola.model.architectures import length_limit
from jola.model.edited import EditedModel
from jola.selectors.heads import Cost, HeadScores, Provenance
from jola.training.fit import thread_control

Progress = Callable[[int, int], None]
"""Called with (done, total), in units of the selector."""
_OTHER_DTYPE = "use another --dtype, such as float32"


@dataclass(frozen=True)
class Budget:
    """The compute budget of a selector: at most that of JoLA's training."""

    epochs: int = TrainingConfig.epochs
    batch_size: int = TrainingConfig.batch_size
    max_length: int = DataConfig.max_length
    max_grad_norm: float = TrainingConfig.max_grad_norm

    def steps(self, rows: int) -> int:
        """Number of optimizer steps over `rows` examples."""
        return self.epochs * -(-rows // self.batch_size)


class Selector(Protocol):
    """Anything that scores the heads of a model on examples of a task."""

    def __call__(
        self,
        model: EditedModel,
        examples: Sequence[Example],
        k: int,
        seed: int,
        *,
        template: Template | None = None,
        progress: Progress | None = None,
    ) -> HeadScores:
        """Return finite scores of shape (layers, heads), higher is better; `HeadScores.top` returns the best heads.

        Args:
            model: The model; its edits are not used and not changed.
            examples: Training examples of the task.
            k: Number of heads that will be chosen, for methods that depend on it.
            seed: Seed of all random numbers.
            template: Chat template; None takes the default for the tokenizer.
            progress: Called with (done, total).

        Raises:
            InputError: There are no examples, fewer heads than `k`, or the model gives numbers that are not finite.
        """
        ...


@dataclass(frozen=True)
class Selection:
    """A running selection: the model, the encoded examples and the budget."""

    model: EditedModel
    rows: list[Encoded]
    k: int
    seed: int
    budget: Budget
    progress: Progress | None
    base: Sequence[Intervention] = ()
    """Frozen edits that belong to the base model, see `on_tuned_base`."""

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, heads)."""
        return self.model.geometry.num_layers, self.model.geometry.num_heads

    def generator(self) -> torch.Generator:
        """A random generator on the CPU, seeded with the seed of the selection."""
        return torch.Generator().manual_seed(self.seed)

    def batch(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        """A batch as returned by `collate`."""
        return collate(rows, pad_token_of(self.model.tokenizer))

    def batches(self) -> Iterator[list[Encoded]]:
        """All examples once, in order."""
        size = self.budget.batch_size
        for start in range(0, len(self.rows), size):
            yield self.rows[start : start + size]

    def tokens(self) -> int:
        """Number of tokens computed by `loss` over all batches; packing reduces it."""
        count = 0
        for rows in self.batches():
            batch = self.batch(rows)
            labels = batch.pop("labels")
            wanted = F.pad(labels[:, 1:] != IGNORED, (0, 1))
            packing = self.model.traced.packing(batch, wanted)
            count += labels.numel() if packing is None else len(packing.source)
        return count

    def loss(self, rows: Sequence[Encoded], intervention: Intervention) -> Tensor:
        """Mean negative log-likelihood of the answers, in nats, with `intervention` after the edits of `base`.

        Raises:
            InputError: It is not finite, as in float16 if activations overflow.
        """
        with self.model.using([*self.base, intervention]):
            loss = self.model(**self.batch(rows), reduction="answer").loss
        assert loss is not None
        if not bool(loss.isfinite()):
            raise InputError(f"The loss of the model on the training examples is not finite; {_OTHER_DTYPE}.")
        return loss

    def tell(self, done: int, total: int) -> None:
        """Report progress."""
        if self.progress is not None:
            self.progress(done, total)


@dataclass(frozen=True)
class BaseSelector:
    """Base class of the selectors in this package; subclasses implement `score`.

    The dataclass fields of a subclass are the settings of the method.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    """Display name for tables and figures."""
    depends_on_k: ClassVar[bool] = False
    """Whether the scores depend on the number of heads."""

    budget: Budget = Budget()

    def score(self, selection: Selection) -> tuple[Any, Cost]:
        """Compute scores (layers, heads) and their cost; the caller measures the seconds."""
        raise NotImplementedError

    def __call__(
        self,
        model: EditedModel,
        examples: Sequence[Example],
        k: int,
        seed: int,
        *,
        template: Template | None = None,
        progress: Progress | None = None,
    ) -> HeadScores:
        """See `Selector`."""
        total = model.geometry.num_layers * model.geometry.num_heads
        if not 0 < k <= total:
            raise InputError(f"k is {k}, but the model has {total} heads; choose a k from 1 to {total}.")
        longest = length_limit(model.base, self.budget.max_length)
        rows = encode_examples(examples, template or Template(model.tokenizer), longest).rows
        settings: Mapping[str, Any] = dataclasses.asdict(self) | ({"k": k} if self.depends_on_k else {})
        provenance = Provenance.of(self.name, model, examples, seed, settings)
        started, busy = time.perf_counter(), time.process_time()
        # The caller may have disabled gradients.
        with torch.enable_grad():
            values, cost = self.score(Selection(model, rows, k, seed, self.budget, progress))
        spent = {"seconds": time.perf_counter() - started, "processor_seconds": time.process_time() - busy}
        cost = dataclasses.replace(cost, **spent)
        scores = torch.as_tensor(values).detach().cpu().double()
        if not bool(scores.isfinite().all()):
            raise InputError(f"The scores of {self.title} are not finite; {_OTHER_DTYPE}.")
        return HeadScores(scores.numpy(), provenance, cost)


class HeadFactors(Intervention):
    """Multiply the output of every head by a factor.

    This is equivalent to multiplying its attention weights, as published code does, because the output is linear in
    them.

    Args:
        factors: (layers, heads), or (batch, layers, heads) for one factor per row; differentiable.
    """

    site = Site.HEADS

    def __init__(self, factors: Tensor) -> None:
        super().__init__()
        self.factors = factors

    @property
    def uniform(self) -> bool:
        """Whether all rows share their factors."""
        return self.factors.dim() == 2

    def prepare(self, mask: EditMask | None = None, strength: float = 1.0) -> Mapping[int, Edit]:
        """One edit per layer; masks and strengths are ignored."""
        layers = self.factors.shape[-2]
        return {layer: _multiply(self.factors[..., layer, :]) for layer in range(layers)}


def _multiply(factors: Tensor) -> Edit:
    """`factors`: (heads,) or (batch, heads)."""

    def edit(z: Tensor) -> Tensor:
        by_head = z.unflatten(-1, (factors.shape[-1], -1))
        shaped = factors.to(z.device, torch.float32)
        shaped = shaped[:, None, :, None] if shaped.dim() == 2 else shaped[:, None]
        # In float32, like edits, because a 16-bit format may not distinguish 0.999 from 1.
        return (by_head * shaped).flatten(-2).to(z.dtype)

    return edit


def right_padded(sequences: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask of sequences padded on the right, both (sequences, tokens)."""
    longest = max(map(len, sequences))
    ids = torch.tensor([[*sequence, *[pad] * (longest - len(sequence))] for sequence in sequences])
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    return ids, (torch.arange(longest) < lengths[:, None]).long()


def last_positions(mask: Tensor) -> Tensor:
    """(sequences, tokens), bool: true at the last token of each right-padded sequence."""
    return torch.arange(mask.shape[1]) == mask.sum(1, keepdim=True) - 1


def gumbel(shape: torch.Size | tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise, float64, on the CPU."""
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64).clamp(
        torch.finfo(torch.float64).tiny, 1 - 1e-16
    )
    return -(-uniform.log()).log()


def fit(
    selection: Selection,
    intervention: Callable[[], Intervention],
    parameters: Sequence[nn.Parameter],
    *,
    learning_rate: float,
    decay: bool = True,
    penalty: Callable[[], Tensor] | None = None,
    before_step: Callable[[int, int], None] | None = None,
) -> Cost:
    """Train `parameters` with AdamW; the model is not changed.

    `jola.training.fit.fit` trains the edits of a model. Selectors train masks, which are rebuilt for every pass, with a
    linear schedule, no warm-up, no validation and no checkpoints.

    Args:
        intervention: Returns the intervention for the next pass, built from the parameters.
        decay: Whether the learning rate decays linearly to zero.
        penalty: Added to the cross-entropy of every step.
        before_step: Called with (step, total steps), counted from 0.
    """
    generator, budget = selection.generator(), selection.budget
    total = budget.steps(len(selection.rows))
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total if decay else 1.0)
    step = seen = 0
    threads = thread_control(selection.model.device)
    with ExitStack() as at_end:
        if threads:
            at_end.callback(threads.restore)
        for _ in range(budget.epochs):
            order = torch.randperm(len(selection.rows), generator=generator).tolist()
            for start in range(0, len(order), budget.batch_size):
                rows = [selection.rows[index] for index in order[start : start + budget.batch_size]]
                if before_step is not None:
                    before_step(step, total)
                loss = selection.loss(rows, intervention())
                if penalty is not None:
                    loss = loss + penalty()
                optimizer.zero_grad()
                loss.backward()
                if budget.max_grad_norm > 0:
                    nn.utils.clip_grad_norm_(parameters, budget.max_grad_norm)
                optimizer.step()
                schedule.step()
                seen += len(rows)
                step += 1
                selection.tell(step, total)
                if threads:
                    threads.update()
    return Cost(steps=step, forward=seen, backward=seen)


def fresh_edits(selection: Selection, operation: Literal["both", "offset", "scale"] = "both") -> GatedEdits:
    """Ungated edits of all heads, initialized to zero."""
    units, width = selection.model.geometry.units(Site.HEADS)
    layers = selection.model.geometry.num_layers
    edits = GatedEdits(Site.HEADS, layers, units, width, gates="none", operation=operation)
    # In training mode, layers are not skipped even though their edits are zero.
    return edits.to(selection.model.device).train()


def on_tuned_base(selection: Selection, learning_rate: float) -> tuple[Selection, Cost]:
    """Return the same selection on a base that has learned the task, and the cost of training that base.

    The base is the model with ungated offsets and scales on all heads, trained with the budget and then frozen.
    """
    steps = selection.budget.steps(len(selection.rows))

    def half(start: int) -> Progress:
        return lambda done, total: selection.tell(start + done * steps // total, 2 * steps)

    edits = fresh_edits(selection)
    edits.reset(selection.generator())
    first = dataclasses.replace(selection, progress=half(0))
    cost = fit(first, lambda: edits, edits.edit_parameters(), learning_rate=learning_rate)
    tuned = edits.requires_grad_(False).eval()
    return dataclasses.replace(selection, base=(tuned,), progress=half(steps)), cost


@dataclass(frozen=True)
class OnTunedBase(BaseSelector):
    """Mixin that lets the next selector among the bases of a class score on a base that has learned the task.

    This takes a second training with the same budget.
    """

    base_learning_rate: float = 5e-3

    def score(self, selection: Selection) -> tuple[Any, Cost]:
        """Train and freeze edits, then score with the other selector."""
        tuned, cost = on_tuned_base(selection, self.base_learning_rate)
        scores, own = super().score(tuned)
        return scores, cost + own
