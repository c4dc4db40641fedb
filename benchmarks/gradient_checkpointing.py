"""Measure the cost and savings of `--gradient-checkpointing`: a training step with it ÷ one without it.

    python -m benchmarks.gradient_checkpointing [--rounds 7] [--lengths 256,1024,2048] [--methods jola,lora]

One row of random tokens, whose last 4 are the answer, on the default model, with one thread. The two sides are forked
from a process with the frozen model and step in turn (`benchmarks.method_steps`). Time is the CPU time of a
round; memory is the peak of a process minus its memory when it was forked.
"""

import argparse
import statistics
from typing import Any

from benchmarks.method_steps import Peer, training_step
from benchmarks.train_step import ANSWER, in_turns


def main() -> None:
    """Compare both sides for every method and length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds (default 7)")
    parser.add_argument("--lengths", default="256,1024,2048", help="tokens of the row, comma-separated")
    parser.add_argument("--methods", default="jola,lora", help="comma-separated")
    parser.add_argument("--dtype", default="auto", help="data type of the frozen model")
    options = parser.parse_args()
    import torch

    # A process that has used several threads cannot be forked.
    torch.set_num_threads(1)
    from jola.model.loading import load_base

    base, tokenizer, _ = load_base("default", dtype=options.dtype, device="cpu")
    for method in options.methods.split(","):
        for length in map(int, options.lengths.split(",")):
            ids = torch.randint(0, 30_000, (1, length), generator=torch.Generator().manual_seed(0))
            labels = torch.full_like(ids, -100)
            labels[:, -ANSWER:] = ids[:, -ANSWER:]
            batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
            compare(method, base, tokenizer, batch, options.rounds)


def compare(method: str, base: Any, tokenizer: Any, batch: dict[str, Any], rounds: int) -> None:
    """Print the ratios of one method at one length."""
    peers = {
        name: Peer(
            lambda name=name: training_step(method, base, tokenizer, batch, gradient_checkpointing=name == "with")
        )
        for name in ("with", "without")
    }
    found = in_turns(peers, rounds)
    ratios = [step["with"] / step["without"] for step in found]
    low, _, high = statistics.quantiles(ratios, n=4)
    memory = {name: peer.memory for name, peer in peers.items()}
    print(
        f"{method:8} {batch['input_ids'].numel():5} tokens   step {statistics.median(ratios):.2f} "
        f"(quartiles {low:.2f}–{high:.2f}, n = {rounds})   memory {memory['with'] / memory['without']:.2f} "
        f"({memory['with']:.0f} of {memory['without']:.0f} MB)   {base.dtype}",
        flush=True,
    )


if __name__ == "__main__":
    main()
