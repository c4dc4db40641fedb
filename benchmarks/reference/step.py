"""Run timed training steps of the reference package, for a driver that alternates them with other programs.

    .venv-reference/bin/python benchmarks/reference/step.py --model FOLDER --batch FILE [--threads N]

loads a Llama folder and prints one JSON line, {"ready": true, …, "loaded_rss_mb", "peak_rss_mb"}. Then each line "step"
on standard input runs one step and prints {"seconds", "loss", "peak_rss_mb"}; "quit" or the end of input ends the
script. With --steps N, it runs N steps without reading input.

A step uses the package unchanged: its model class, the `compute_loss` of its trainer with the exponential λ schedule,
backward, AdamW over the parameters that `unfreeze_jola_params` leaves trainable, and zero_grad. PyTorch's anomaly
detection, which the authors' example switches on, is off.

The package loads float32 whatever the dtype of the checkpoint (`torch_dtype=torch.float32` is the default of
`jola_from_pretrained`), so `--dtype as-runs` and `--dtype float32` are the same program. Its rotary base is 10000
whatever the configuration says, which changes the numbers of many models but not the time of a step.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from harness import check_package, load, make_trainer, quiet, trainable
from torch import Tensor

# The learning rate of the authors' configuration, which does not affect the time of a step.
LEARNING_RATE = 5e-3


def old_style(folder: Path, scratch: Path) -> Path:
    """Return a folder with the same model and a config.json that transformers 4.45 reads completely.

    transformers 5 writes `rope_parameters` and `dtype`; 4.45 expects `rope_theta` and `torch_dtype`. The weights are
    linked, not copied.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    rope = config.pop("rope_parameters", None)
    if rope is not None:
        config["rope_theta"] = rope.get("rope_theta", 10000.0)
    if "dtype" in config:
        config["torch_dtype"] = config.pop("dtype")
    converted = scratch / "model"
    converted.mkdir()
    (converted / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for weights in folder.glob("*.safetensors*"):
        (converted / weights.name).symlink_to(weights.resolve())
    return converted


def read_batch(path: Path, answer: int) -> dict[str, Tensor]:
    """Read the batch of all steps from a JSON list of rows of token ids. The last `answer` tokens are labeled."""
    input_ids = torch.tensor(json.loads(path.read_text(encoding="utf-8")))
    labels = torch.full_like(input_ids, -100)
    labels[:, -answer:] = input_ids[:, -answer:]
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "labels": labels}


def memory_mb() -> tuple[float, float]:
    """Return the current and the peak resident memory of this process in MB (10⁶ bytes)."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        now, peak = (float(lines[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM"))
        return now, peak
    # Without /proc, only the peak is available without another package: in bytes on macOS, in KiB on other systems.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    return peak, peak


def report(values: dict[str, Any]) -> None:
    """Print one JSON line for the driver and flush it."""
    print(json.dumps(values), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Timed training steps of the reference package.")
    parser.add_argument("--model", type=Path, required=True, help="folder of a Llama model: config.json, safetensors")
    parser.add_argument("--dtype", choices=("as-runs", "float32"), default="as-runs", help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=0, help="run this many steps; 0 reads commands (default)")
    parser.add_argument("--threads", type=int, default=0, help="threads of PyTorch; 0 leaves its choice (default)")
    parser.add_argument("--batch", type=Path, required=True, help="JSON list of rows of token ids, all of one length")
    parser.add_argument("--answer", type=int, default=4, help="tokens of a row in the loss (default: %(default)s)")
    options = parser.parse_args()
    if not (options.model / "config.json").exists():
        parser.error(f"no config.json in {options.model}; give the folder of a Llama model.")
    quiet()
    check_package()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        choice = {} if options.dtype == "as-runs" else {"torch_dtype": torch.float32}
        model = load(old_style(options.model, scratch), **choice)
        model.unfreeze_jola_params()
        model.train()
        batch = read_batch(options.batch, options.answer)
        trainer = make_trainer(model, "expon", scratch, batch_size=len(batch["input_ids"]))
        optimizer = torch.optim.AdamW(trainable(model), lr=LEARNING_RATE, weight_decay=0.0)

        def step() -> None:
            start = time.perf_counter()
            loss = trainer.compute_loss(model, batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds = time.perf_counter() - start
            report({"seconds": seconds, "loss": loss.item(), "peak_rss_mb": round(memory_mb()[1], 1)})

        report(
            {
                "ready": True,
                "dtype": str(model.dtype).removeprefix("torch."),
                "trainable": sum(parameter.numel() for parameter in trainable(model)),
                "threads": torch.get_num_threads(),
                "loaded_rss_mb": round(memory_mb()[0], 1),
                "peak_rss_mb": round(memory_mb()[1], 1),
            }
        )
        for _ in range(options.steps):
            step()
        if not options.steps:
            for line in sys.stdin:
                if line.strip() == "quit":
                    break
                if line.strip() == "step":
                    step()


if __name__ == "__main__":
    main()
