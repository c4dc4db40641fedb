"""Measure testing and validating a run, as ratios to its training in the same process.

    python -m benchmarks.testing [--json] [--rounds 5] [--examples 500] [--threads 1] [--dtype auto]

The default model, task and settings: 200 training examples in batches of 4 for 8 epochs, 100 validation examples after
each epoch, 500 test examples. Each round answers its share of the test examples and runs a training step after every
batch of answers. A ratio is the time for all examples ÷ the time for all steps, as the median over rounds. With one
thread, times are CPU times, which other programs disturb least.

* answers: greedy answers to the test examples ÷ the training
* options: log-likelihoods of the options of the test examples ÷ the training
* validation: all validations of a training ÷ the training
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import torch

from jola import JoLAModel
from jola.config import RunConfig
from jola.data.examples import Encoded, Template, collate, encode_examples, pad_token_of
from jola.data.tasks import load_task
from jola.evaluation.scoring import exact_match, option_likelihood
from jola.training.objective import paper_penalty

EVALUATION_BATCH = 16
"""Validation examples per pass, as in training."""
WARM_UP = 2


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--examples", type=int, default=500, help="test examples to answer (default 500)")
    parser.add_argument("--threads", type=int, default=1, help="threads (default 1)")
    parser.add_argument("--dtype", default="auto", help="data type of the model")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    report = measure(options.rounds, options.examples, options.dtype, clock)
    report |= {"rounds": options.rounds, "threads": options.threads}
    if options.json:
        print(json.dumps(report))
        return
    for name, (low, ratio, high) in report["ratios"].items():
        print(f"{name:12} {ratio:.3f}   (quartiles {low:.3f}–{high:.3f}, n = {options.rounds} rounds)")


def measure(rounds: int, examples: int, dtype: str, clock: Callable[[], float]) -> dict[str, Any]:
    """Return the ratios as (lower quartile, median, upper quartile), and facts about the measurement."""
    config = RunConfig()
    model, task = JoLAModel.from_pretrained(dtype=dtype), load_task(config.data, config.training.seed)
    template = Template(model.tokenizer)
    train, validation = (encode_examples(part, template, 0).rows for part in (task.train, task.validation))
    size, epochs = config.training.batch_size, config.training.epochs
    steps = -(-len(train) // size) * epochs
    step = _training(model, train, size)
    for _ in range(WARM_UP):
        next(step)

    def share(work: Callable[[Callable[..., None]], Any]) -> tuple[float, float]:
        """Return the seconds of some work, and the median seconds of the training steps in its pauses."""
        seconds, taken, started = 0.0, [], clock()

        def pause(*done: int) -> None:
            nonlocal seconds, started
            seconds += clock() - started
            started = clock()
            next(step)
            taken.append(clock() - started)
            started = clock()

        work(pause)
        return seconds, statistics.median(taken)

    def validate(pause: Callable[..., None]) -> None:
        for first in range(0, len(validation), EVALUATION_BATCH):
            with torch.no_grad():
                model(**collate(validation[first : first + EVALUATION_BATCH], pad_token_of(model.tokenizer)))
            pause()

    quotients: dict[str, list[float]] = {"answers": [], "options": [], "validation": []}
    step_seconds = []
    for number in range(rounds):
        test = task.test[:examples][number::rounds]
        scale = len(task.test) / len(test)
        works: dict[str, tuple[float, Callable[..., Any]]] = {
            "answers": (scale, lambda pause, test=test: exact_match(model, test, template, progress=pause)),
            "options": (
                scale,
                lambda pause, test=test: option_likelihood(model, test, task.labels, template, progress=pause),
            ),
            "validation": (epochs, validate),
        }
        for name, (times, work) in works.items():
            seconds, one_step = share(work)
            quotients[name].append(times * seconds / (steps * one_step))
            step_seconds.append(one_step)
    return {
        "ratios": {name: _quartiles(values) for name, values in quotients.items()},
        "step_seconds": statistics.median(step_seconds),
        "steps": steps,
        "test_examples": min(examples, len(task.test)),
        "dtype": str(model.base.dtype),
    }


def _quartiles(values: list[float]) -> list[float]:
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3


def _training(model: JoLAModel, rows: list[Encoded], size: int) -> Iterator[None]:
    """Run one training step per iteration."""
    edits = model.gated_edits()
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for first in cycle(range(0, len(rows), size)):
        batch = collate(rows[first : first + size], pad_token_of(model.tokenizer))
        model.train()
        with torch.enable_grad():
            loss = model(**batch).loss + paper_penalty(edits, 1e-3)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        model.eval()
        yield


if __name__ == "__main__":
    main()
