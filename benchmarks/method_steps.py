"""Measure one training step of each method, as ratios to JoLA's in the same rounds.

    python -m benchmarks.method_steps [--json] [--rounds 15] [--tokens task|random] [--dtype auto] [--methods red,lora]

Batches of 8 × 96 tokens, of which the last 4 of each row are the answer, on the default model, with one thread. Each
method is forked from a process with the frozen model, whose weights all share. In each round, every method runs one
step (forward with its penalty, backward, clipping, AdamW), one after the other, in changing order. A ratio is the
median over rounds of the ratio of CPU times, which other programs hardly disturb. Memory is the peak of a process
minus its memory when it was forked.

Goals for the step: RED and BitFit at most 1.1 times JoLA's, LoReFT at most 1.3. LoFiT is measured in its first stage.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.train_step import ANSWER, in_turns, random_rows, resident_mb, task_rows

METHODS = ("jola", "red", "bitfit", "loreft", "houlsby", "lora", "lofit")
GOALS = {"red": 1.1, "bitfit": 1.1, "loreft": 1.3}


def main() -> None:
    """Fork a process for each method, let them step in turn, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=15, help="measured rounds (default 15)")
    parser.add_argument(
        "--tokens", choices=("task", "random"), default="task", help="examples of the default task, or random tokens"
    )
    parser.add_argument("--dtype", default="auto", help="data type of the frozen model")
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated; jola is always included")
    options = parser.parse_args()
    names = list(dict.fromkeys(["jola", *options.methods.split(",")]))
    report = measure(names, options.rounds, options.tokens, options.dtype)
    if options.json:
        print(json.dumps(report))
        return
    for name, found in report["methods"].items():
        low, high = found["quartiles"]
        goal = "" if found["goal"] is None else f", goal {found['goal']:g}"
        print(f"{name:8} {found['ratio']:.3f}   (quartiles {low:.3f}–{high:.3f}{goal})   memory {found['memory']:.2f}")
    print(f"{report['rounds']} rounds, {report['tokens']} tokens, {report['dtype']}, one thread")


def measure(names: list[str], rounds: int, tokens: str, dtype: str) -> dict[str, Any]:
    """Return medians and quartiles of CPU time ÷ JoLA's, and memory ÷ JoLA's."""
    import torch

    # A process that has used several threads cannot be forked.
    torch.set_num_threads(1)
    from jola.model.loading import load_base

    base, tokenizer, _ = load_base("default", dtype=dtype, device="cpu")
    ids = torch.tensor(task_rows() if tokens == "task" else random_rows())
    labels = torch.full_like(ids, -100)
    labels[:, -ANSWER:] = ids[:, -ANSWER:]
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    peers = {name: Peer(lambda name=name: training_step(name, base, tokenizer, batch)) for name in names}
    found = in_turns(peers, rounds)
    methods = {}
    for name in names:
        ratios = [step[name] / step["jola"] for step in found]
        low, _, high = statistics.quantiles(ratios, n=4)
        methods[name] = {
            "ratio": statistics.median(ratios),
            "quartiles": (low, high),
            "memory": peers[name].memory / peers["jola"].memory,
            "goal": GOALS.get(name),
        }
    return {"methods": methods, "rounds": rounds, "tokens": tokens, "dtype": str(base.dtype)}


def training_step(
    name: str, base: Any, tokenizer: Any, batch: dict[str, Any], *, gradient_checkpointing: bool = False
) -> Callable[[], None]:
    """Return a function that runs one training step of a method with its default settings."""
    import torch

    from jola import JoLAModel
    from jola.methods import METHODS as KNOWN
    from jola.training.objective import paper_penalty

    method = KNOWN[name]
    settings = method.settings()
    model = JoLAModel(base, tokenizer, settings, seed=0).train()
    model.gradient_checkpointing = gradient_checkpointing
    penalty = method.stages(settings)[0].penalty or paper_penalty
    interventions = model.own_interventions()
    groups = method.parameter_groups(interventions, 0.01, 0.05)
    optimizer = torch.optim.AdamW(groups, lr=method.learning_rate or 1e-3)
    parameters = [parameter for group in groups for parameter in group["params"]]

    def step() -> None:
        loss = model(**batch).loss
        loss = loss + penalty(model.gated_edits(), 1e-3)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


class Peer:
    """A forked process that runs one step on request."""

    def __init__(self, make: Callable[[], Callable[[], None]]) -> None:
        context = multiprocessing.get_context("fork")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(make, other), daemon=True)
        self._process.start()
        other.close()
        self.memory = 0.0

    def step(self) -> float:
        """Run one step and return its processor seconds."""
        self._connection.send("step")
        try:
            seconds, self.memory = self._connection.recv()
        except EOFError:
            raise SystemExit("A method ended early; its error is above.") from None
        return seconds

    def quit(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


def _serve(make: Callable[[], Callable[[], None]], connection: Connection) -> None:
    before = resident_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak (VmHWM)
    step = make()
    while connection.recv():
        start = time.process_time()
        step()
        connection.send((time.process_time() - start, resident_mb("VmHWM") - before))


if __name__ == "__main__":
    main()
