"""Measure one training step of JoLA, as ratios to peers measured in the same run.

    python -m benchmarks.train_step [--json] [--rounds 15] [--threads 2] [--tokens task|random] [--dtype float32]

Batches of 8 × 96 tokens, of which the last 4 of each row are the answer, on the default model. The rows are encoded
training examples of the default task and therefore share a prefix, which `jola.model.packing` computes once; with
``--tokens random`` they share nothing. All peers get the same tokens. Every peer is a separate process; in each round,
each of them runs one step, one after the other. A ratio is the median over rounds of the ratio of two step times, so
that a noisy machine disturbs both sides alike. The environment of the reference package is created if it is missing.

* plain: forward and backward of the frozen model with logits at all positions, in the same data type
* hooks: the same JoLA step with hand-written PyTorch hooks instead of nnsight
* reference: the reference package as it runs (float32); reference_float32: JoLA in float32 against it
* peft_lora: LoRA of peft, r = 8 on the query and value projections
* trainer: a step of `JoLATrainer` with `GateRecorder` ÷ the bare JoLA step
* reference_memory: peak memory of the process, JoLA ÷ the reference package
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BATCH, TOKENS, ANSWER = 8, 96, 4
WARM_UP = 2


def main() -> None:
    """Run all peers, or (internal) act as one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=15, help="measured rounds (default 15)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of every process")
    parser.add_argument(
        "--tokens", choices=("task", "random"), default="task", help="examples of the default task, or random tokens"
    )
    parser.add_argument("--reference", type=Path, default=ROOT / ".venv-reference", help="the reference's environment")
    parser.add_argument("--without-reference", action="store_true", help="omit the reference package")
    parser.add_argument("--worker", choices=sorted(WORKERS), help=argparse.SUPPRESS)
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="data type of all but the reference (default: that of `jola train` on this machine)",
    )
    parser.add_argument("--batch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _work(options.worker, options.dtype, options.threads, options.batch)
        return
    with tempfile.TemporaryDirectory() as folder:
        batch = Path(folder) / "batch.json"
        batch.write_text(json.dumps(task_rows() if options.tokens == "task" else random_rows()), encoding="utf-8")
        report = measure(options, batch)
    if options.json:
        print(json.dumps(report))
        return
    for name, ratio in report["ratios"].items():
        low, high = report["spread"].get(name, (ratio, ratio))
        print(f"{name:18} {ratio:.3f}   (quartiles {low:.3f}–{high:.3f}, n = {report['rounds']} rounds)")


def task_rows() -> list[list[int]]:
    """Return the token ids of the first `BATCH` training examples of the default task that have `TOKENS` tokens."""
    from transformers import AutoTokenizer

    from jola.config import DataConfig
    from jola.data.assets import resolve_model
    from jola.data.examples import Template, encode_examples
    from jola.data.tasks import load_task

    tokenizer = AutoTokenizer.from_pretrained(resolve_model("default").path_or_id)
    task = load_task(DataConfig(train_size=1_000_000), seed=0)
    rows = [row.input_ids for row in encode_examples(task.train, Template(tokenizer), max_length=0).rows]
    chosen = [row for row in rows if len(row) == TOKENS][:BATCH]
    if len(chosen) < BATCH:
        raise SystemExit(f"The default task has {len(chosen)} examples of {TOKENS} tokens; {BATCH} are needed.")
    return chosen


def random_rows() -> list[list[int]]:
    """Return random token ids below 30,000."""
    import torch

    return torch.randint(0, 30_000, (BATCH, TOKENS), generator=torch.Generator().manual_seed(0)).tolist()


def measure(options: argparse.Namespace, batch: Path) -> dict[str, Any]:
    """Start every peer, let them step in turn, and compare."""
    from jola.data.assets import resolve_model

    model = resolve_model("default").path_or_id
    names = ("jola", "plain", "hooks", "peft_lora", "trainer")
    commands = {name: _worker_command(name, options.threads, batch, options.dtype) for name in names}
    commands["jola_float32"] = _worker_command("jola", options.threads, batch, "float32")
    if not options.without_reference:
        python = options.reference / "bin" / "python"
        if not python.exists():
            make = ROOT / "benchmarks/reference/environment.py"
            subprocess.run([sys.executable, make, options.reference], check=True)
        commands["reference"] = [
            str(python), str(ROOT / "benchmarks/reference/step.py"),
            "--model", model, "--threads", str(options.threads), "--batch", str(batch), "--answer", str(ANSWER),
        ]  # fmt: skip
    peers = {name: Peer(command) for name, command in commands.items()}
    rounds = in_turns(peers, options.rounds)
    pairs = {
        "plain": ("jola", "plain"),
        "hooks": ("jola", "hooks"),
        "reference": ("jola", "reference"),
        "reference_float32": ("jola_float32", "reference"),
        "peft_lora": ("jola", "peft_lora"),
        "trainer": ("trainer", "jola"),
    }
    ratios, spread = {}, {}
    for name, (ours, theirs) in pairs.items():
        if theirs in peers:
            quotients = [step[ours] / step[theirs] for step in rounds]
            ratios[name] = statistics.median(quotients)
            quartiles = statistics.quantiles(quotients, n=4)
            spread[name] = (quartiles[0], quartiles[2])
    if "reference" in peers:
        ratios["reference_memory"] = peers["jola"].peak / peers["reference"].peak
    seconds = {name: statistics.median(step[name] for step in rounds) for name in peers}
    return {
        "ratios": ratios,
        "spread": spread,
        "seconds": seconds,
        "peak_mb": {name: peer.peak for name, peer in peers.items()},
        "tokens": options.tokens,
        "rounds": options.rounds,
        "threads": options.threads,
        "dtype": peers["jola"].hello.get("dtype"),
    }


def in_turns(peers: Mapping[str, Any], rounds: int) -> list[dict[str, float]]:
    """Return the seconds of each peer's step by round, after warm-up steps; end the peers."""
    try:
        for _ in range(WARM_UP):
            for peer in peers.values():
                peer.step()
        return [{name: peers[name].step() for name in turned(list(peers), number)} for number in range(rounds)]
    finally:
        for peer in peers.values():
            peer.quit()


def turned(names: list[str], number: int) -> list[str]:
    """Return the names rotated by `number`, and reversed in odd rounds, so that the order of the peers changes."""
    turned = names[number % len(names) :] + names[: number % len(names)]
    return turned[::-1] if number % 2 else turned


class Peer:
    """A process that runs one training step on request."""

    def __init__(self, command: list[str]) -> None:
        self.command = command
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self.hello = self._read()
        self.peak = 0.0

    def step(self) -> float:
        """Run one step and return its seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        answer = self._read()
        self.peak = answer["peak_rss_mb"]
        return answer["seconds"]

    def quit(self) -> None:
        """End the process."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"A peer ended early: {' '.join(self.command)}")


def _worker_command(name: str, threads: int, batch: Path, dtype: str) -> list[str]:
    own = ["--worker", name, "--threads", str(threads), "--dtype", dtype, "--batch", str(batch)]
    return [sys.executable, "-m", "benchmarks.train_step", *own]


def _work(name: str, dtype: str, threads: int, batch: Path) -> None:
    import torch

    torch.set_num_threads(threads)
    ids = torch.tensor(json.loads(batch.read_text(encoding="utf-8")))
    labels = torch.full_like(ids, -100)
    labels[:, -ANSWER:] = ids[:, -ANSWER:]
    WORKERS[name](dtype, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})


def _serve(step: Callable[[], None], dtype: str) -> None:
    _say({"ready": True, "dtype": dtype})
    for line in sys.stdin:
        if line.strip() == "quit":
            return
        start = time.perf_counter()
        step()
        _say({"seconds": time.perf_counter() - start, "peak_rss_mb": resident_mb("VmHWM")})


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def resident_mb(name: str) -> float:
    """Return the resident memory of this process in MB: ``VmRSS`` for now, ``VmHWM`` for the peak."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(name)).split()[1]) * 1024 / 1e6


def _model(dtype: str) -> Any:
    from jola import JoLAModel

    return JoLAModel.from_pretrained(dtype=dtype).train()


def _optimiser(groups: Any) -> Any:
    import torch

    return torch.optim.AdamW(groups)


def _jola_step(model: Any, forward: Callable[[], Any]) -> Callable[[], None]:
    import torch

    from jola.training.objective import paper_penalty

    edits = model.gated_edits()
    groups = [
        {"params": [p for e in edits for p in e.edit_parameters()], "lr": 5e-3},
        {"params": [p for e in edits for p in e.gate_parameters()], "lr": 5e-2},
    ]
    optimiser = _optimiser(groups)

    def step() -> None:
        loss = forward() + paper_penalty(edits, 1e-3)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return step


def work_jola(dtype: str, batch: dict[str, Any]) -> None:
    """Serve JoLA steps, through nnsight."""
    model = _model(dtype)
    _serve(_jola_step(model, lambda: model(**batch).loss), str(model.base.dtype))


def work_hooks(dtype: str, batch: dict[str, Any]) -> None:
    """Serve the same steps with PyTorch hooks on the same modules."""
    from contextlib import nullcontext

    import torch.nn.functional as F

    from jola.edits.sites import Site
    from jola.model.architectures import module_path
    from jola.model.packing import packed_attention, packing_of

    model = _model(dtype)
    base = model.base
    ids, attention_mask, labels = batch["input_ids"], batch["attention_mask"], batch["labels"]
    rows = F.pad(labels[:, 1:] != -100, (0, 1))
    answers = labels[:, 1:][rows[:, :-1]]
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": attention_mask}
    # Packed like the JoLA step, so that the two differ only in how the edits are applied.
    packing = packing_of(ids, attention_mask, rows)
    if packing:
        inputs, rows = {**packing.inputs(ids), "packing": packing}, packing.pack(rows).unsqueeze(0)

    def spread(chosen: Any, rows: Any) -> Any:
        full = chosen.new_zeros(*rows.shape, chosen.shape[-1])
        full[rows] = chosen
        return full

    def forward() -> Any:
        hooks = [
            base.get_submodule(module_path(base, Site.HEADS, layer)).register_forward_pre_hook(
                lambda module, inputs, edit=edit: (edit(inputs[0]),)
            )
            for layer, edit in model.edits.prepare().items()
        ]
        # As in JoLAModel, the last MLP and the head run only at the positions of the answer.
        last = base.get_submodule(module_path(base, Site.MLP, model.geometry.num_layers - 1))
        hooks.append(last.register_forward_pre_hook(lambda module, inputs: (inputs[0][rows],)))
        hooks.append(last.register_forward_hook(lambda module, inputs, output: spread(output, rows)))
        hooks.append(base.lm_head.register_forward_pre_hook(lambda module, inputs: (inputs[0][rows],)))
        try:
            with packed_attention(base) if packing else nullcontext():
                logits = base(**inputs, use_cache=False).logits
        finally:
            for hook in hooks:
                hook.remove()
        return F.cross_entropy(logits.float(), answers)

    _serve(_jola_step(model, forward), str(base.dtype))


def work_plain(dtype: str, batch: dict[str, Any]) -> None:
    """Serve forward and backward of the frozen model: logits at all positions, gradients down to the embeddings."""
    model = _model(dtype).base
    embedded = model.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_(True)

    def step() -> None:
        loss = model(
            inputs_embeds=embedded, attention_mask=batch["attention_mask"], labels=batch["labels"], use_cache=False
        ).loss
        loss.backward()
        embedded.grad = None

    _serve(step, str(model.dtype))


def work_peft_lora(dtype: str, batch: dict[str, Any]) -> None:
    """Serve steps of peft's LoRA."""
    from peft import LoraConfig, get_peft_model

    base = _model(dtype).base
    model = get_peft_model(base, LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    model.train()
    optimiser = _optimiser([p for p in model.parameters() if p.requires_grad])

    def step() -> None:
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    _serve(step, str(base.dtype))


def work_trainer(dtype: str, batch: dict[str, Any]) -> None:
    """Serve steps inside `JoLATrainer`, with every gate recorded at every step."""
    from transformers import PrinterCallback, TrainerCallback, TrainingArguments

    from jola import GateRecorder, JoLATrainer
    from jola.data.examples import Encoded
    from jola.runs.history import GateWriter

    model = _model(dtype)
    rows = [Encoded(ids.tolist(), TOKENS - ANSWER) for ids in batch["input_ids"]]

    class Stepper(TrainerCallback):
        """Starts a step on request. A step ends where the next would begin, so it includes logging and recording."""

        def __init__(self) -> None:
            self.start: float | None = None

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.start is None:
                _say({"ready": True, "dtype": str(model.base.dtype)})
            else:
                _say({"seconds": time.perf_counter() - self.start, "peak_rss_mb": resident_mb("VmHWM")})
            if not sys.stdin.readline():
                raise SystemExit
            self.start = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        writers = {e.site: GateWriter(Path(folder) / "gates", e.site, e.layers, e.units) for e in model.gated_edits()}
        args = TrainingArguments(
            output_dir=folder,
            max_steps=100_000,
            per_device_train_batch_size=BATCH,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
        )
        trainer = JoLATrainer(model, args, rows, callbacks=[GateRecorder(writers), Stepper()])
        trainer.remove_callback(PrinterCallback)
        trainer.train()


WORKERS: dict[str, Callable[[str, dict[str, Any]], None]] = {
    "jola": work_jola,
    "hooks": work_hooks,
    "plain": work_plain,
    "peft_lora": work_peft_lora,
    "trainer": work_trainer,
}

if __name__ == "__main__":
    main()
