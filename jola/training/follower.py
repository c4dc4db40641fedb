"""Follow a training: report its progress, write its status file, and stop or pause it on request."""

import platform
import threading
import time
from typing import Any

import psutil
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from jola.methods import Stage
from jola.runs.run import Run
from jola.runs.state import PAUSE_FILE as PAUSE_FILE
from jola.runs.state import pause_requested as pause_requested
from jola.runs.state import request_pause as request_pause
from jola.system.distributed import in_any
from jola.system.progress import Progress
from jola.training.stages import Stages

STATUS_INTERVAL = 0.2
"""Minimum seconds between two writes of the status file."""


class RunFollower(TrainerCallback):
    """Write status and metrics of a run while it trains, report progress, and stop or pause it on request."""

    def __init__(self, run: Run, progress: Progress, stop: threading.Event) -> None:
        self.run, self.progress, self.stop = run, progress, stop
        self.paused = False
        self.stage: Stage | None = None
        """The current stage, if there are several."""
        self.offset = 0
        """Number of steps of the stages before it."""
        self.later = 0
        """Number of stages after it."""
        self._written = 0.0

    def begin(self, stages: Stages) -> None:
        """Follow the current stage."""
        first, *later = stages.left
        self.stage = first if stages.several else None
        self.offset, self.later = stages.offset, len(later)

    @property
    def pausing(self) -> bool:
        """Whether the run pauses; a request to stop takes precedence."""
        return self.paused and not self.stop.is_set()

    @property
    def ending(self) -> bool:
        """Whether the run was asked to stop or to pause."""
        return self.paused or self.stop.is_set()

    def agree(self, device: torch.device) -> None:
        """Share requests to stop or to pause with all processes, outside of training."""
        if in_any(self.stop.is_set(), device):
            self.stop.set()
        self.paused = in_any(self.paused, device)

    def look_for_pause(self) -> None:
        """Check for a request to pause, outside of training."""
        self.paused = self.paused or pause_requested(self.run)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write that the run is training."""
        self.progress.phase(self.stage.title if self.stage else "train", state.max_steps)
        if state.is_world_process_zero:
            self.run.write_status(
                state="training",
                step=self.offset + state.global_step,
                # All stages have the same number of steps, because they have the same examples and epochs.
                total_steps=self.offset + state.max_steps * (1 + self.later),
                **({"stage": self.stage.title} if self.stage else {}),
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the step to the status file, and stop or pause on request."""
        if state.is_world_process_zero and time.monotonic() - self._written >= STATUS_INTERVAL:
            self._written = time.monotonic()
            self.run.write_status(step=self.offset + state.global_step)
        pause = state.is_world_process_zero and pause_requested(self.run)
        if in_any(self.stop.is_set(), args.device):
            self.stop.set()
            control.should_training_stop = True
        if in_any(pause, args.device) and state.global_step < state.max_steps:
            self.paused = control.should_training_stop = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Skip the validation if training stops within an epoch, because an uninterrupted run would not validate."""
        if control.should_training_stop and (state.epoch or 0) % 1:
            control.should_evaluate = False

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append the numbers of a step or a validation to the metrics."""
        if not state.is_world_process_zero or not logs:
            return
        entry: dict[str, Any] = {"step": self.offset + state.global_step, "time": time.time(), "epoch": state.epoch}
        if self.stage:
            entry["stage"] = self.stage.name
        if "eval_loss" in logs:
            found = {"validation_cross_entropy": logs["eval_loss"], "validation_accuracy": logs.get("eval_accuracy")}
            self.run.append_metrics(entry | {name: value for name, value in found.items() if value is not None})
        elif "cross_entropy" in logs:
            names = (
                "loss", "cross_entropy", "penalty", "l0_weight", "expected_open", "learning_rate", "gate_learning_rate",
                "grad_norm",
            )  # fmt: skip
            self.run.append_metrics(entry | {name: logs[name] for name in names if name in logs})
            shown = {name: logs[name] for name in ("loss", "expected_open") if name in logs}
            self.progress.advance(state.global_step, **shown)


def peak_memory(device: torch.device) -> int:
    """Peak memory of this process in bytes: of the GPU if it trains on one, else of main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    memory = psutil.Process().memory_info()
    peak = getattr(memory, "peak_wset", None)  # Windows
    if peak is None:
        try:
            import resource

            # The unit is kilobytes on Linux and bytes on macOS.
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)
        except ImportError:
            peak = memory.rss
    return int(peak)
