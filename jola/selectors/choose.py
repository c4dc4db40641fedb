"""Choose heads under the settings of a run, with its model and its examples."""

import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from jola.config import RunConfig
from jola.data.examples import Template
from jola.data.tasks import load_task
from jola.errors import InputError
from jola.jola_model import JoLAModel
from jola.selectors import SELECTORS
from jola.selectors.heads import HeadScores
from jola.selectors.protocol import Budget
from jola.settings import chosen_by
from jola.system.distributed import launched
from jola.system.progress import Progress


def budget_of(config: RunConfig) -> Budget:
    """Return the budget of selectors under these settings."""
    training = config.training
    return Budget(training.epochs, training.batch_size, config.data.max_length, training.max_grad_norm)


def score_heads(
    config: RunConfig,
    selector: str,
    k: int,
    progress: Progress,
    *,
    stopped: Callable[[], bool] = lambda: False,
    **settings: Any,
) -> tuple[HeadScores, int]:
    """Return the scores of all heads of the model of ``config``, and the number of training examples used.

    Args:
        config: Model, data, seed and budget.
        selector: One of `SELECTORS`.
        k: Number of heads that will be chosen.
        progress: Receives phases, steps and notes.
        stopped: Called at each step of the selector; True stops the selection.
        settings: Other settings of the selector.

    Raises:
        InputError: The model, the data or ``k`` cannot be used.
        KeyboardInterrupt: ``stopped`` returned True.
    """
    if selector not in SELECTORS:
        raise InputError(f"{selector!r} is not a selector; choose one of {', '.join(SELECTORS)}.")
    choose = SELECTORS[selector](budget=budget_of(config), **settings)
    progress.phase("load")
    seed = config.training.seed
    task = load_task(config.data, seed)
    for sentence in task.notes:
        progress.note(sentence)
    model = JoLAModel.from_pretrained(**asdict(config.model))
    totals: set[int] = set()

    def advance(done: int, total: int) -> None:
        if stopped():
            raise KeyboardInterrupt
        if not totals:
            progress.phase("Selecting heads", total)
            totals.add(total)
        progress.advance(done)

    template = Template(model.tokenizer, config.data.template)
    return choose(model, task.train, k, seed, template=template, progress=advance), len(task.train)


def chosen_heads(config: RunConfig, progress: Progress, stop: threading.Event) -> str | None:
    """Return the heads that ``--heads SELECTOR@K`` chooses, in the format of ``--heads``; None without a selector.

    Raises:
        InputError: The selection cannot be made, or several processes train.
        KeyboardInterrupt: ``stop`` was set during the selection.
    """
    heads = getattr(config.edits, "heads", "")
    if config.method != "jola" or not (chosen := chosen_by(heads)):
        return None
    selector, k = chosen
    if launched() > 1:
        raise InputError(
            f"--heads {heads} chooses heads in one process only; choose them first: `jola select {selector} --k {k}`."
        )
    scores, count = score_heads(config, selector, k, progress, stopped=stop.is_set)
    text = scores.top(k).to_text()
    progress.note(f"{selector} chose {k} of {scores.values.size} heads on {count} training examples: {text}.")
    return text
