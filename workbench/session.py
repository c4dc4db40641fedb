"""The one door from the page to a loaded model.

nnsight lets one thread at a time trace a model, and keeps what a trace saves in that thread. So one worker thread
makes every call, whoever asks, and everybody else waits for its answers.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from jola.errors import InputError
from jola.records import Example
from jola.runs import Run
from workbench.settings import Limits

if TYPE_CHECKING:
    from jola.examples import Template
    from jola.model import JoLAModel

Answer = TypeVar("Answer")

_FLUSH_SECONDS = 0.08


@dataclass(frozen=True)
class TokenChange:
    """Probability of one next token without and with the edits."""

    token: str
    base: float
    edited: float


@dataclass(frozen=True)
class Loaded:
    """A model with the edits of one run, and how prompts are written for it."""

    model: "JoLAModel"
    template: "Template"


Loader = Callable[[Run], Loaded]


def load_run(run: Run) -> Loaded:
    """Load the base model of a run and its adapter, from the same place and in the same number format as the run."""
    from jola.examples import Template
    from jola.model import JoLAModel

    config = run.run_config()
    # An adapter does not tell the path of a local model; the run does.
    local = config.model.model if Path(config.model.model).expanduser().exists() else None
    model = JoLAModel.from_adapter(run.adapter_dir, model=local, dtype=config.model.dtype, device=config.model.device)
    return Loaded(model, Template(model.tokenizer, config.data.template))


class Session:
    """Loads models when they are first needed, keeps the last few, and makes all calls in one thread."""

    def __init__(self, limits: Limits, loader: Loader = load_run, training: Callable[[], bool] = lambda: False) -> None:
        self.limits = limits
        self._loader = loader
        self._training = training
        self._threads = 0
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._closing = threading.Event()
        self._loaded: OrderedDict[tuple[Path, int], Loaded] = OrderedDict()

    def close(self) -> None:
        """Let no further call in, and stop the answer that is being written."""
        self._closing.set()
        self._worker.shutdown(wait=False, cancel_futures=True)

    def is_loaded(self, run: Run) -> bool:
        """Whether the run's model answers without being loaded first."""
        return self._key(run) in self._loaded

    def prepare(self, run: Run) -> "Future[None]":
        """Load the run's model in the worker thread; the result raises what loading raised."""
        return self._submit(run, lambda loaded: None)

    def next_tokens(self, run: Run, example: Example, count: int = 10) -> list[TokenChange]:
        """The likeliest next tokens after the prompt, without and with the edits.

        The `count` tokens with the largest probability on either side, in the order of that probability.
        """

        def look(loaded: Loaded) -> list[TokenChange]:
            import torch

            ids = torch.tensor([self._encode(loaded, example)])

            def probabilities() -> torch.Tensor:
                logits = loaded.model.forward(ids).logits
                assert logits is not None
                return logits[0, -1].float().softmax(-1)

            with torch.no_grad():
                edited = probabilities()
                with loaded.model.disable_edits():
                    base = probabilities()
            top = torch.maximum(base, edited).topk(min(count, len(base))).indices.tolist()
            decode = loaded.model.tokenizer.decode
            return [TokenChange(str(decode([i])), float(base[i]), float(edited[i])) for i in top]

        return self._call(run, look)

    def generate(
        self, run: Run, example: Example, *, edited: bool, new_tokens: int, stop: threading.Event | None = None
    ) -> Iterator[str]:
        """The answer so far, again and again while it grows; ``stop`` ends it, and so does closing the iterator."""
        limits = self.limits
        new_tokens = max(1, min(new_tokens, limits.new_tokens))
        closed = threading.Event()
        ends = [closed, self._closing, *([stop] if stop else [])]
        pieces = _Pieces()

        def write(loaded: Loaded) -> None:
            import torch
            from transformers import StoppingCriteriaList, TextStreamer

            class Collector(TextStreamer):
                def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
                    pieces.put(text)

            model = loaded.model
            ids = torch.tensor([self._encode(loaded, example)])
            end = time.monotonic() + limits.generation_seconds

            def finished(ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
                over = any(event.is_set() for event in ends) or time.monotonic() > end
                return torch.full((ids.shape[0],), over, dtype=torch.bool, device=ids.device)

            with nullcontext() if edited else model.disable_edits():
                model.generate(
                    ids,
                    max_new_tokens=new_tokens,
                    do_sample=False,
                    eos_token_id=loaded.template.end_token_ids,
                    stopping_criteria=StoppingCriteriaList([finished]),
                    streamer=Collector(model.tokenizer, skip_prompt=True, skip_special_tokens=True),
                )

        future = self._submit(run, write)
        try:
            while not future.done():
                if pieces.wait(_FLUSH_SECONDS):
                    yield pieces.text
            future.result()
            yield pieces.text
        finally:
            closed.set()

    def _encode(self, loaded: Loaded, example: Example) -> list[int]:
        ids = loaded.template.encode_prompt(example)
        if len(ids) > self.limits.prompt_tokens:
            raise InputError(
                f"The prompt has {len(ids):,} tokens and at most {self.limits.prompt_tokens:,} are taken; shorten it."
            )
        return ids

    def _call(self, run: Run, work: Callable[[Loaded], Answer]) -> Answer:
        return self._submit(run, work).result()

    def _submit(self, run: Run, work: Callable[[Loaded], Answer]) -> "Future[Answer]":
        key = self._key(run)

        def call() -> Answer:
            self._share_cores()
            return work(self._get(run, key))

        return self._worker.submit(call)

    def _share_cores(self) -> None:
        """Compute with a quarter of the cores while a run trains on all of them.

        Threads of two processes that wait for each other's cores at every layer slow both: on two cores an answer
        takes many times as long with two threads as with one.
        """
        import torch

        self._threads = self._threads or torch.get_num_threads()
        torch.set_num_threads(max(1, self._threads // 4) if self._training() else self._threads)

    def _key(self, run: Run) -> tuple[Path, int]:
        """The adapter's folder and its age, so that an adapter that was trained further is loaded again."""
        weights = run.adapter_dir / "adapter_model.safetensors"
        try:
            return run.adapter_dir.resolve(), weights.stat().st_mtime_ns
        except OSError:
            raise InputError(f"The run {run.id} has no adapter yet; choose one that has finished.") from None

    def _get(self, run: Run, key: tuple[Path, int]) -> Loaded:
        """The loaded model; only the worker thread comes here."""
        if key not in self._loaded:
            while len(self._loaded) >= self.limits.loaded_models:
                self._loaded.popitem(last=False)
            self._loaded[key] = self._loader(run)
        self._loaded.move_to_end(key)
        return self._loaded[key]


class _Pieces:
    """Text that one thread appends to and another waits for."""

    def __init__(self) -> None:
        self._more = threading.Event()
        self.text = ""

    def put(self, piece: str) -> None:
        self.text += piece
        self._more.set()

    def wait(self, seconds: float) -> bool:
        """Whether text arrived within ``seconds``; forgets that it did."""
        if not self._more.wait(seconds):
            return False
        self._more.clear()
        return True
