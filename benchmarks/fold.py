"""Compare the folded edits of a run with the run itself: logits, accuracy by example, and generation time.

    python -m benchmarks.fold RUN [--dtypes float32 float16 bfloat16] [--test-size 500] [--pairs 30] [--output FILE]

RUN is the id or directory of a finished run; its task is tested. Three things are measured:

* logits, in float64 (does the algebra hold?) and as `jola.export.export_merged` reports them for each data type;
* accuracy of the folded model on the task, compared with the edited model example by example. The weights of a format
  are tested in float32 arithmetic; --native also tests edited and folded model in the arithmetic of a format;
* generation time of the folded model ÷ that of the frozen model, in pairs of alternating order. Lengths are fixed, so
  that both generate the same number of tokens.

The last line of output is one JSON object.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from jola import JoLAModel, Template, exact_match, load_task
from jola.cli.common import find_run
from jola.export import export_merged, merge
from jola.export.exactness import encode_prompts
from jola.export.foldable import Foldable, foldable_edits
from jola.export.rebuild import rebuild
from jola.model.loading import DTYPES


def main() -> None:
    """Measure, print intermediate results, and end with one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--dtypes", nargs="*", default=["float32", "float16", "bfloat16"], choices=list(DTYPES))
    parser.add_argument("--native", nargs="*", default=[], choices=list(DTYPES))
    parser.add_argument("--test-size", type=int, default=500)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()

    run = find_run(options.run)
    model = JoLAModel.from_adapter(run.adapter_dir, dtype="float32", device="cpu")
    data = replace(run.run_config().data, test_size=options.test_size)
    task = load_task(data, seed=run.run_config().training.seed)
    result: dict[str, Any] = {"run": run.id, "task": task.name, "logits_float64": exactness_in_float64(model)}
    print(f"float64: max |Δlogit| {result['logits_float64']['largest']:.2g}", flush=True)

    edited = answers(model, task.test)
    result["edited"] = edited.accuracy.to_dict()
    print(f"edited, float32: {edited.accuracy}", flush=True)
    for dtype in options.dtypes:
        with tempfile.TemporaryDirectory() as folder:
            report = export_merged(model, Path(folder) / "merged", dtype, safe=False)
            print(report.describe(), flush=True)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                Path(folder) / "merged", dtype=torch.float32, attn_implementation="eager"
            )
            found = answers(plain(loaded, model), task.test)
        result[dtype] = {
            "report": {name: value for name, value in asdict(report).items() if name != "folder"},
            "accuracy": found.accuracy.to_dict(),
            "same_answers": same(edited.answers, found.answers),
        }
        print(f"folded, {dtype}: {found.accuracy}, same answer for {result[dtype]['same_answers']}", flush=True)
    for dtype in options.native:
        low = JoLAModel.from_adapter(run.adapter_dir, dtype=dtype, device="cpu")
        expected, found = answers(low, task.test), answers(plain(merge(low), low), task.test)
        result[f"native_{dtype}"] = {
            "edited": expected.accuracy.to_dict(),
            "folded": found.accuracy.to_dict(),
            "same_answers": same(expected.answers, found.answers),
        }
        print(
            f"computed in {dtype}: edited {expected.accuracy}, folded {found.accuracy}, same answer for "
            f"{result[f'native_{dtype}']['same_answers']}",
            flush=True,
        )
    result["time_ratio"] = time_ratio(model, options.pairs, options.new_tokens)
    ratio = result["time_ratio"]
    for clock, found in (("time", ratio), ("CPU time", ratio["processor"])):
        figures = f"{found['median']:.3f} ({found['low']:.3f}–{found['high']:.3f})"
        print(f"{clock} folded ÷ frozen: {figures}, n = {ratio['n']} pairs")
    print(json.dumps(result), flush=True)
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def answers(model: JoLAModel, examples: Sequence[Any]) -> Any:
    """Return the answers of a model to the test examples, and their accuracy."""
    return exact_match(model, examples, Template(model.tokenizer))


def plain(folded: PreTrainedModel, model: JoLAModel) -> JoLAModel:
    """Wrap a folded model for our evaluation, with edits that do nothing."""
    wrapped = JoLAModel(folded, model.tokenizer)
    for edits in wrapped.gated_edits():
        for gate in edits.gate_parameters():
            gate.data.fill_(-9.0)
    return wrapped


def same(one: Sequence[str], other: Sequence[str]) -> str:
    """Return how many of the answers are equal, as text."""
    return f"{sum(a == b for a, b in zip(one, other, strict=True))} of {len(one)}"


@torch.no_grad()
def exactness_in_float64(model: JoLAModel) -> dict[str, float]:
    """Return the largest |Δlogit| between edited and folded model in float64, where rounding is negligible."""
    wide = JoLAModel(rebuild(model.base, Foldable(), torch.float64), model.tokenizer, model.edit_config)
    folded = rebuild(model.base, foldable_edits(model), torch.float64)
    largest = effect = 0.0
    rows = encode_prompts(model, None)
    with wide.using(model.in_use):
        for ids in rows:
            edited = wide(ids).logits
            largest = max(largest, float((edited - folded(ids, use_cache=False).logits).abs().max()))
            effect = max(effect, float((edited - wide(ids, strength=0.0).logits).abs().max()))
    return {"largest": largest, "effect": effect, "prompts": len(rows), "tokens": sum(ids.shape[1] for ids in rows)}


def time_ratio(model: JoLAModel, pairs: int, new_tokens: int) -> dict[str, Any]:
    """Return the median ratio over pairs of generation times, folded ÷ frozen, with a 95 % bootstrap interval.

    ``processor`` is the same for CPU time, which other programs on the machine hardly change.
    """
    models = {"folded": merge(model), "frozen": model.base}
    ids = encode_prompts(model, None)[0]
    clocks = {"time": time.perf_counter, "processor": time.process_time}
    spent: dict[str, dict[str, list[float]]] = {clock: {name: [] for name in models} for clock in clocks}
    for pair in range(-2, pairs):  # two to warm up
        for name in sorted(models, reverse=bool(pair % 2)):
            began = {clock: read() for clock, read in clocks.items()}
            generate(models[name], ids, new_tokens)
            for clock, read in clocks.items():
                if pair >= 0:
                    spent[clock][name].append(read() - began[clock])
    return {
        **_ratio(spent["time"]),
        "n": pairs,
        "processor": _ratio(spent["processor"]),
        "seconds_frozen": statistics.median(spent["time"]["frozen"]),
        "new_tokens": new_tokens,
    }


def _ratio(spent: dict[str, list[float]]) -> dict[str, float]:
    ratios = [a / b for a, b in zip(spent["folded"], spent["frozen"], strict=True)]
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(2000))
    return {"median": statistics.median(ratios), "low": medians[50], "high": medians[1949]}


@torch.no_grad()
def generate(model: Any, ids: torch.Tensor, count: int) -> None:
    """Generate a greedy answer of exactly `count` tokens."""
    model.generate(
        ids, attention_mask=torch.ones_like(ids), min_new_tokens=count, max_new_tokens=count, do_sample=False
    )


if __name__ == "__main__":
    main()
