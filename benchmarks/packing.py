"""Measure the savings of packing: training steps with packed batches ÷ the same steps without packing.

    python -m benchmarks.packing [TASK …] [--batches 12] [--threads 2] [--dtype auto]

TASK is a value of `jola train --task`; default: the default task. 200 training examples in batches of 4, forward and
backward with newly initialized edits, on the default model. Both sides compute every batch, in alternating order.
"""

import argparse
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Measure each task and print a line for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=["sentiment"])
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()

    import torch

    from jola import JoLAModel

    torch.set_num_threads(options.threads)
    model = JoLAModel.from_pretrained(dtype=options.dtype).train()
    for task in options.tasks:
        pairs, tokens, places = measure(model, task, options.batches, options.batch_size)
        ratios = [packed / whole for packed, whole in pairs]
        low, _, high = statistics.quantiles(ratios, n=4)
        print(
            f"{Path(task).name:15} packed ÷ not: {statistics.median(ratios):.3f} (quartiles {low:.3f}–{high:.3f}, "
            f"n = {len(ratios)} batches of {options.batch_size}), tokens {tokens / places:.2f} of all positions",
            flush=True,
        )


def measure(model: Any, task: str, batches: int, size: int) -> tuple[list[tuple[float, float]], int, int]:
    """Return seconds of each batch (packed, not packed), tokens computed with packing, and positions in all batches."""
    from jola.config import DataConfig
    from jola.data.examples import Template, collate, encode_examples
    from jola.data.tasks import load_task

    examples = load_task(DataConfig(task=task, train_size=200), seed=42).train
    rows = encode_examples(examples, Template(model.tokenizer), DataConfig.max_length).rows
    random.Random(0).shuffle(rows)
    pairs, tokens, places = [], 0, 0
    step(model, collate(rows[:size], model.tokenizer.pad_token_id), packed=True)
    for number in range(batches):
        start = number * size % (len(rows) - size + 1)
        batch = collate(rows[start : start + size], model.tokenizer.pad_token_id)
        order = (True, False) if number % 2 else (False, True)
        seconds = {packed: step(model, batch, packed=packed) for packed in order}
        pairs.append((seconds[True], seconds[False]))
        wanted = batch["labels"].roll(-1, 1) != -100
        packing = model.traced.packing(batch, wanted)
        tokens += batch["labels"].numel() if packing is None else len(packing.source)
        places += batch["labels"].numel()
    return pairs, tokens, places


def step(model: Any, batch: Any, *, packed: bool) -> float:
    """Return the seconds of a forward and a backward pass."""
    from jola.model import packing

    before = packing.WORTH
    packing.WORTH = before if packed else 2.0  # a share above 1 can never be saved, so no batch is packed
    try:
        start = time.perf_counter()
        model(**batch, reduction="answer").loss.backward()
        model.zero_grad()
        return time.perf_counter() - start
    finally:
        packing.WORTH = before


if __name__ == "__main__":
    main()
