"""A small training run, written with the writer of real training."""

import time
from pathlib import Path

import numpy as np

from jola.config import RunConfig
from jola.runs.history import GATE_FIELDS
from jola.runs.run import Run

ACCURACY = {"accuracy": 0.86, "n": 500, "low": 0.827, "high": 0.888}


def gate_values(step: int, steps: int, layers: int, units: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Return gates that start open; many close, more of the scale gates. Each field has shape (layers, units)."""
    rng = np.random.default_rng(seed)
    depth = np.linspace(0, 1, layers)[:, None]
    need = np.exp(-(((depth - 0.62) / 0.2) ** 2)) * rng.random((layers, units)) + 0.3 * rng.random((layers, units))
    done = step / steps
    values = {}
    for half, bar in (("offset", 0.12), ("scale", 0.45)):
        goal = np.where(need > bar, np.clip(0.25 + need, 0, 1), -1.2 - 2 * rng.random((layers, units)))
        jitter = 0.03 * np.sin(step * rng.random((layers, units)))
        gate = np.clip(0.96 + (goal - 0.96) * done**0.7 + jitter, 0, 1)
        values |= {f"{half}_gate": gate, f"{half}_open": np.clip(gate + 0.05, 0, 1), f"{half}_norm": gate * 0.4}
    return {name: values[name].astype(np.float32) for name in GATE_FIELDS}


class Recorder:
    """Writes a run step by step, as training does."""

    def __init__(
        self, path: Path, *, steps: int = 200, layers: int = 30, units: int = 9, config: RunConfig | None = None
    ) -> None:
        self.steps, self.layers, self.units = steps, layers, units
        task = {"name": "sentiment", "n_train": 200, "n_validation": 100, "n_test": 500}
        self.run = Run.create(path, config or RunConfig(), {"task": task})
        self.begun = time.time() - 1.2 * steps
        self.run.write_status(state="training", total_steps=steps, started=self.begun)

    def step(self, step: int) -> None:
        """Record one step; step 0 is the state before training."""
        noise = np.random.default_rng(step).normal(0, 0.12)
        cross_entropy = float(max(0.05, 0.3 + 3.2 * np.exp(-step / 14) + noise))
        gates = gate_values(step, self.steps, self.layers, self.units)
        if step:
            entry = {"step": step, "time": self.begun + 1.2 * step, "epoch": 8 * step / self.steps}
            penalty = 0.3 * float(gates["offset_open"].mean() + gates["scale_open"].mean())
            rate = (1 + np.cos(np.pi * step / self.steps)) / 2
            rates = {"learning_rate": 0.005 * rate, "gate_learning_rate": 0.15 * rate, "l0_weight": 0.002}
            self.run.append_metrics(
                entry | rates | {"loss": cross_entropy + penalty, "cross_entropy": cross_entropy, "penalty": penalty}
            )
            if step % max(1, self.steps // 8) == 0:
                validation = 0.33 + 1.1 * float(np.exp(-step / 30))
                self.run.append_metrics({**entry, "validation_cross_entropy": validation})
        self.record(step, gates)
        self.run.write_status(step=step)

    def record(self, step: int, gates: dict[str, np.ndarray]) -> None:
        """Append a record to the history of the edits."""
        with self.run.gate_writer("heads", self.layers, self.units) as writer:
            writer.append(step, gates)

    def until(self, step: int, begin: int = 0) -> "Recorder":
        """Record all steps from ``begin`` to ``step``."""
        for number in range(begin, step + 1):
            self.step(number)
        return self

    def finish(self, state: str = "finished") -> Run:
        """End the run; a finished run gets a result and an empty file of adapter weights."""
        if state == "finished":
            self.run.write_result({"test": ACCURACY, "closed": {"offset": 0.19, "scale": 0.74}, "seconds": 245.0})
            self.run.adapter_dir.mkdir(exist_ok=True)
            (self.run.adapter_dir / "adapter_model.safetensors").write_bytes(b"")
        self.run.write_status(state=state, message="" if state != "failed" else "The disk is full.")
        return self.run


MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class MethodRecorder(Recorder):
    """A run of a method without gates: RED records both channels of its MLPs, LoRA the norm of each weight's change."""

    def __init__(self, path: Path, config: RunConfig, *, steps: int = 40, layers: int = 4) -> None:
        super().__init__(path, steps=steps, layers=layers, units=len(MODULES), config=config)
        self.method = config.method

    def record(self, step: int, gates: dict[str, np.ndarray]) -> None:
        """Record norms that grow with step and depth; the last layer of LoRA has no v_proj."""
        grown = np.linspace(0.2, 1, self.layers, dtype=np.float32)[:, None] * step / self.steps
        if self.method == "lora":
            norms = grown * np.linspace(0.5, 2, len(MODULES), dtype=np.float32)
            norms[-1, 2] = np.nan
            writer = self.run.gate_writer("weights", self.layers, len(MODULES), ("update_norm",), MODULES)
            fields = {"update_norm": norms}
        else:
            on = np.ones_like(grown)
            writer = self.run.gate_writer("mlp", self.layers, 1)
            fields = {
                name: 3 * grown if name == "offset_norm" else grown if name == "scale_norm" else on
                for name in GATE_FIELDS
            }
        with writer:
            writer.append(step, fields)

    def finish(self, state: str = "finished") -> Run:
        """End the run with a result without gates."""
        run = super().finish(state)
        if state == "finished":
            run.write_result({"test": ACCURACY, "closed": {}, "seconds": 245.0})
        return run
