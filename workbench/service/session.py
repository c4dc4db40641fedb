"""The only access of pages to the loaded models.

nnsight lets only one thread at a time trace a model, and stores saved values in that thread. Therefore one worker
thread makes the calls of all pages, in the order of submission; waiting calls can see how many are ahead of them. Calls
of models on NDIF have a separate worker, because they mostly wait. The choices of a page never change a model:
adapters, masks and strengths are passed with each call.
"""

import gc
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from jola.data.records import Example, Message
from jola.errors import InputError
from jola.runs.run import Run
from jola.system.startup import quick_imports
from jola.system.threads import ThreadControl, fixed_by_user
from workbench.service.calls import Calls, Superseded, Ticket
from workbench.service.loader import Loaded, Loader
from workbench.service.writing import Pieces, Writing
from workbench.settings import Limits

if TYPE_CHECKING:
    import torch

    from jola.data.examples import Template
    from jola.edits.intervention import EditMask, Intervention
    from jola.edits.masks import HeadMask
    from jola.model.edited import EditedModel

Answer = TypeVar("Answer")

_KEPT_EDITS = 16
_KEPT_PROMPTS = 32


@dataclass(frozen=True)
class Prompt:
    """Input of the model: the turns of a conversation to answer, or plain text to continue."""

    turns: tuple[tuple[str, str], ...]
    plain: bool = False

    @classmethod
    def of(cls, text: str, *, plain: bool = False) -> "Prompt":
        """Create a prompt from one user turn, or with ``plain`` from the text itself. Raises `InputError` if empty."""
        if not text.strip():
            raise InputError("The prompt is empty; write one, or take an example from the test data.")
        return cls((("user", text),), plain)

    @classmethod
    def of_example(cls, example: Example) -> "Prompt":
        """Create a prompt from the conversation of an example."""
        return cls(tuple((turn.role, turn.content) for turn in example.prompt))

    @property
    def text(self) -> str:
        """The last turn, which the text box on the page shows."""
        return self.turns[-1][1]

    def example(self) -> Example:
        """Return the conversation as an example without an answer."""
        return Example(tuple(Message(role, content) for role, content in self.turns), "")


@dataclass(frozen=True)
class Use:
    """One adapter in a call: its run, which of its edits are on (by site), and a factor on all of them."""

    run: Run
    masks: "Mapping[str, HeadMask]" = field(default_factory=dict)
    strength: float = 1.0
    remote: bool = False
    """Whether NDIF runs the model."""


Stack = Sequence[Use]
"""Adapters on top of each other: the second edits the activations that the first has edited."""


def refuse_remote(stack: Stack) -> None:
    """Refuse an analysis that reads weights or many activations of a model that runs on NDIF.

    Raises:
        InputError: The model is remote.
    """
    if any(use.remote for use in stack):
        raise InputError("This needs the model on this machine; choose “This machine” below the run.")


@dataclass(frozen=True)
class Desk:
    """Context of a call in the worker thread: the model with the edits of the stack active."""

    model: "EditedModel"
    template: "Template"
    edits: "tuple[Intervention, ...]"
    masks: "tuple[EditMask | None, ...]"
    limits: Limits
    stop: threading.Event
    _prompts: "OrderedDict[tuple[int, tuple[int, ...]], torch.Tensor]"

    def encode(self, prompt: Prompt) -> list[int]:
        """Return the token ids of a prompt. Raises `InputError` if there are none, or more than the limit."""
        self.check_characters(*(content for _, content in prompt.turns))
        if prompt.plain:
            ids = list(self.model.tokenizer(prompt.text, verbose=False)["input_ids"])
        else:
            ids = self.template.encode_prompt(prompt.example())
        return self.checked(ids)

    def encode_before(self, prompt: Prompt, *answers: str) -> list[int]:
        """Like `encode`, but also raises `InputError` if the prompt together with an answer exceeds the limit."""
        from jola.insight.prompts import answer_ids

        for answer in answers:
            self.check_characters(answer)
        ids = self.encode(prompt)
        for answer in answers:
            self.checked([*ids, *answer_ids(self.model, answer, self.template)])
        return ids

    def check_characters(self, *texts: str) -> None:
        """Raise `InputError` for far too long texts, before spending time and memory on tokenizing them."""
        total = sum(map(len, texts))
        if total > self.limits.text_characters:
            raise InputError(
                f"The text has {total:,} characters, but at most {self.limits.text_characters:,} are allowed; "
                "shorten it."
            )

    def checked(self, ids: list[int]) -> list[int]:
        """Return ``ids``. Raises `InputError` if there are none, or more than the limit."""
        if not ids:
            raise InputError("The text has no tokens; write something.")
        if len(ids) > self.limits.prompt_tokens:
            raise InputError(
                f"The text has {len(ids):,} tokens, but at most {self.limits.prompt_tokens:,} are allowed; shorten it."
            )
        return ids

    def base(self) -> AbstractContextManager[None]:
        """Return a context in which the model is the plain base model."""
        return self.model.disable_edits()

    def next_log_probabilities(self, ids: list[int]) -> "tuple[torch.Tensor, torch.Tensor]":
        """Return ln p of each possible next token without and with the edits, (vocabulary) each, float32.

        The result without the edits is cached by prompt, so that a click on the map costs one forward pass.
        """
        import torch

        tokens = torch.tensor([ids])

        def look() -> torch.Tensor:
            logits = self.model.forward(tokens, positions="last", mask=list(self.masks) or None).logits
            assert logits is not None
            return logits[0].float().log_softmax(-1).cpu()

        key = (id(self.model), tuple(ids))
        if key not in self._prompts:
            with self.model.disable_edits():
                logits = self.model.forward(tokens, positions="last").logits
                assert logits is not None
                self._prompts[key] = logits[0].float().log_softmax(-1).cpu()
            while len(self._prompts) > _KEPT_PROMPTS:
                self._prompts.popitem(last=False)
        self._prompts.move_to_end(key)
        return self._prompts[key], look() if self.edits else self._prompts[key]


class _Worker:
    """A thread, and the models and edits that only this thread uses."""

    def __init__(self, name: str) -> None:
        self.calls = Calls(name)
        self.bases: OrderedDict[Hashable, Loaded] = OrderedDict()
        self.edits: OrderedDict[tuple[int, Path, int], tuple[Intervention, ...]] = OrderedDict()
        self.prompts: OrderedDict[tuple[int, tuple[int, ...]], torch.Tensor] = OrderedDict()

    def unload(self) -> None:
        """Release the memory of the model that was used longest ago."""
        _, old = self.bases.popitem(last=False)
        model = id(old.model)
        del old
        for key in [key for key in self.edits if key[0] == model]:
            del self.edits[key]
        for key in [key for key in self.prompts if key[0] == model]:
            del self.prompts[key]
        gc.collect()  # the parts of a model refer to each other


class Session:
    """Loads models on first use, keeps the last few, and makes all calls of local models in one thread.

    Calls of remote models are made in a second thread.
    """

    def __init__(
        self, limits: Limits, loader: Loader | None = None, training: Callable[[], bool] = lambda: False
    ) -> None:
        self.limits = limits
        self._loader = loader or Loader()
        self._training = training
        self._control: ThreadControl | None = None
        self._closing = threading.Event()
        self._local, self._remote = _Worker("model"), _Worker("remote")

    def close(self) -> None:
        """Accept no further calls, and stop answers that are being written."""
        self._closing.set()
        self._local.calls.close()
        self._remote.calls.close()

    def warm_up(self) -> None:
        """Import in advance, in the worker thread, the packages that loading a model needs."""

        def load(_: Ticket[None]) -> None:
            with quick_imports():
                import jola.adapters.directory
                import jola.insight
                import jola.jola_model  # noqa: F401

        with suppress(Superseded):
            self._local.calls.submit(load, page="app", kind="warm-up")

    def is_loaded(self, run: Run, remote: bool = False) -> bool:
        """Whether the run's base model is loaded."""
        return self._loader.base_name(run, remote) in self._worker(remote).bases

    def is_here(self, run: Run) -> bool:
        """Whether the run's base model can be loaded without downloading it, or is a built-in one."""
        return self._loader.is_here(run)

    def ask(
        self,
        stack: Stack,
        work: Callable[[Desk], Answer],
        *,
        page: str = "",
        kind: str = "",
        base: Run | None = None,
        remote: bool = False,
    ) -> Ticket[Answer]:
        """Call ``work`` in the worker thread, with a model and the edits of a stack.

        With ``page`` and ``kind``, the call replaces the older call of this page and kind. ``base`` is the run whose
        base model answers if the stack is empty, with ``remote`` on NDIF.

        Raises:
            InputError: A run has no adapter (yet). Exceptions of loading and of ``work`` are raised by the ticket.
        """
        stack = tuple(stack)
        first = stack[0].run if stack else base
        assert first is not None, "a call needs a stack, or the run whose base model answers"
        keys = [_adapter_key(use.run) for use in stack]
        elsewhere = stack[0].remote if stack else remote

        def call(ticket: Ticket[Answer]) -> Answer:
            if not elsewhere:
                self._share_cores()
            return self._work(first, elsewhere, stack, keys, work, ticket.stop)

        return self._worker(elsewhere).calls.submit(call, page=page, kind=kind)

    def model_of(self, run: Run) -> tuple[str, str | None]:
        """Return name and revision of the base model of a run."""
        return self._loader.model_of(run)

    def prepare(self, run: Run) -> Ticket[None]:
        """Load the run's base model and edits; the ticket raises exceptions of loading."""
        return self.ask([Use(run)], lambda desk: None)

    def generate(
        self,
        stack: Stack,
        prompt: Prompt,
        *,
        new_tokens: int,
        page: str = "",
        kind: str = "",
        base: Run | None = None,
        remote: bool = False,
    ) -> Writing:
        """Write an answer with the edits of the stack, or of the base model of ``base`` if the stack is empty.

        Decoding is greedy, up to ``new_tokens`` tokens, until the answer ends or the time limit is reached.
        """
        limits = self.limits
        new_tokens = max(1, min(new_tokens, limits.new_tokens))
        pieces = Pieces()

        def write(desk: Desk) -> str:
            import torch
            from transformers import StoppingCriteriaList, TextStreamer

            class Collector(TextStreamer):
                def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
                    pieces.put(text)

            ids = torch.tensor([desk.encode(prompt)])
            end = time.monotonic() + limits.generation_seconds

            def finished(ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
                over = desk.stop.is_set() or self._closing.is_set() or time.monotonic() > end
                return torch.full((ids.shape[0],), over, dtype=torch.bool, device=ids.device)

            desk.model.generate(
                ids,
                mask=list(desk.masks) or None,
                max_new_tokens=new_tokens,
                do_sample=False,
                eos_token_id=desk.template.end_token_ids,
                stopping_criteria=StoppingCriteriaList([finished]),
                streamer=Collector(desk.model.tokenizer, skip_prompt=True, skip_special_tokens=True),
            )
            return pieces.text

        return Writing(self.ask(stack, write, page=page, kind=kind, base=base, remote=remote), pieces)

    def _worker(self, remote: bool) -> _Worker:
        return self._remote if remote else self._local

    # In the worker thread

    def _work(
        self,
        first: Run,
        remote: bool,
        stack: tuple[Use, ...],
        keys: list[tuple[Path, int]],
        work: Callable[[Desk], Answer],
        stop: threading.Event,
    ) -> Answer:
        import torch

        worker = self._worker(remote)
        loaded = self._base(worker, first, remote)
        edits: list[Intervention] = []
        masks: list[EditMask | None] = []
        for use, key in zip(stack, keys, strict=True):
            for own in self._edits_of(worker, use.run, key, loaded.model):
                edits.append(own)
                masks.append(_edit_mask(own, use.masks.get(own.site), use.strength))
        desk = Desk(loaded.model, loaded.template(first), tuple(edits), tuple(masks), self.limits, stop, worker.prompts)
        with torch.no_grad(), loaded.model.using(edits), _ended_by(loaded.model, stop, self.limits.remote_seconds):
            return work(desk)

    def _base(self, worker: _Worker, run: Run, remote: bool) -> Loaded:
        key = self._loader.base_name(run, remote)
        if key not in worker.bases:
            while len(worker.bases) >= self.limits.loaded_models:
                worker.unload()
            worker.bases[key] = self._loader.base(run, remote)
        worker.bases.move_to_end(key)
        return worker.bases[key]

    def _edits_of(
        self, worker: _Worker, run: Run, key: tuple[Path, int], model: "EditedModel"
    ) -> "tuple[Intervention, ...]":
        full = (id(model), *key)
        if full not in worker.edits:
            worker.edits[full] = tuple(self._loader.edits(run, model))
            while len(worker.edits) > _KEPT_EDITS:
                (owner, *_), dropped = worker.edits.popitem(last=False)
                for loaded in worker.bases.values():
                    if id(loaded.model) == owner:
                        loaded.model.detach(dropped)
        worker.edits.move_to_end(full)
        return worker.edits[full]

    def _share_cores(self) -> None:
        """Use the free cores, or a quarter of all cores while a run of this app trains.

        Threads of two processes that wait for each other's cores at every layer slow down both: on two cores, an answer
        takes many times as long with two threads as with one.
        """
        import torch

        if self._control is None:
            self._control = ThreadControl(torch.get_num_threads(), lambda _: None)
        if not fixed_by_user():
            self._control.update()
        quarter = max(1, self._control.most // 4)
        torch.set_num_threads(quarter if self._training() else self._control.threads)


@contextmanager
def _ended_by(model: "EditedModel", stop: threading.Event, seconds: float) -> Iterator[None]:
    """End the requests of a remote model after ``seconds``, or on ``stop``, which raises `Superseded`."""
    from jola.remote import RemoteModel, RequestStopped

    if not isinstance(model, RemoteModel):
        yield
        return
    try:
        with model.until(stop, seconds):
            yield
    except RequestStopped:
        raise Superseded from None


def _adapter_key(run: Run) -> tuple[Path, int]:
    """Return the adapter's folder and modification time, so that an adapter is loaded again after further training."""
    weights = run.adapter_dir / "adapter_model.safetensors"
    try:
        return run.adapter_dir.resolve(), weights.stat().st_mtime_ns
    except OSError:
        raise InputError(run.why_no_adapter()) from None


def _edit_mask(edits: "Intervention", mask: "HeadMask | None", strength: float) -> "EditMask | None":
    from jola.edits.intervention import EditMask

    if mask is None:
        if strength == 1.0:
            return None
        factors = EditMask.all(edits)
    else:
        if (*mask.shape, mask.channels) != (edits.layers, edits.units, edits.channels):
            raise InputError(
                f"The mask is for {mask.layers} × {mask.units} edits and this adapter has {edits.layers} × "
                f"{edits.units} at its {edits.site}; take one that was made for it."
            )
        factors = mask.edit_mask()
    return factors.map(lambda factor: factor * strength)
