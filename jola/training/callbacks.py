"""Training callbacks, which record gates, save edits and stop early."""

import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from jola.adapters.directory import WEIGHTS_NAME, save_adapter
from jola.edits.sites import Site
from jola.model.edited import EditedModel
from jola.runs.history import GateWriter
from jola.runs.run import Run
from jola.system.files import disk_errors
from jola.system.threads import ThreadControl


class CrossEntropyPatience(TrainerCallback, ExportableState):
    """Stop after `patience` validations without a lower cross-entropy, regardless of the penalty.

    The callback of transformers monitors the metric that selects the best checkpoint, which may be the accuracy here.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best = math.inf
        self.waited = 0

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Count validations since the best one."""
        loss = (metrics or {}).get("eval_loss", math.inf)
        if loss < self.best:
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            control.should_training_stop = True

    def state(self) -> dict[str, Any]:
        """State in checkpoints, from which counting continues."""
        return {"args": {"patience": self.patience}, "attributes": {"best": self.best, "waited": self.waited}}


class BeforeSteps(TrainerCallback):
    """Call a function before every step with the number of the step, from 0, and the total."""

    def __init__(self, function: Callable[[int, int], None]) -> None:
        self.function = function

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Call the function."""
        self.function(state.global_step, state.max_steps)


class FreeThreads(TrainerCallback):
    """Train with as many threads as there are free cores; see `jola.system.threads`."""

    def __init__(self, control: ThreadControl) -> None:
        self.control = control

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Update the number of threads; `ThreadControl` limits how often."""
        self.control.update()

    on_prediction_step = on_step_end


class GateRecorder(TrainerCallback):
    """Record the edits of every site at the start, every `every` steps and at the end.

    The record of the last step contains the gates of that step, even if the best checkpoint is restored afterwards.

    Args:
        writers: One `GateWriter` for each site, by name.
        every: Steps between two records.
        offset: Number of steps of earlier stages.
    """

    def __init__(self, writers: dict[str, GateWriter], every: int = 1, offset: int = 0) -> None:
        self.writers, self.every, self.offset = writers, every, offset

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Record the start of a training, or a resumed step that an uninterrupted run would also record.

        Such a step is also the last one, of which no step follows before the best checkpoint is restored.
        """
        if state.global_step % self.every == 0 or state.global_step >= state.max_steps:
            self.record(kwargs["model"], state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Record every `every` steps, and when the training stops."""
        if state.global_step % self.every == 0 or control.should_training_stop:
            self.record(kwargs["model"], state)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Record the last step when a validation ends the training, before the best checkpoint is restored."""
        if control.should_training_stop:
            self.record(kwargs["model"], state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Record the last step."""
        self.record(kwargs["model"], state)

    def record(self, model: nn.Module, state: TrainerState) -> None:
        """Append one record for each intervention, as plain numbers, so that no graph or activation is referenced."""
        if not state.is_world_process_zero:
            return
        unwrapped = getattr(model, "module", model)
        assert isinstance(unwrapped, EditedModel)
        for edits in unwrapped.own_interventions():
            fields = {name: values.cpu().numpy() for name, values in edits.record().items()}
            self.writers[edits.site].append(self.offset + state.global_step, fields)


@contextmanager
def gate_writers(run: Run, model: EditedModel, first: bool) -> Iterator[dict[str, GateWriter]]:
    """Open the history writers of all sites, by name; empty except in the first process."""
    with ExitStack() as stack:
        yield {
            str(i.site): stack.enter_context(
                # Heads have numbers and need no names.
                run.gate_writer(
                    i.site, i.layers, i.units, tuple(i.record()), i.unit_names if i.site is Site.WEIGHTS else None
                )
            )
            for i in (model.own_interventions() if first else ())
        }


class AdapterKeeper(TrainerCallback):
    """Save the adapter at every checkpoint whose edits would be kept if training ended there.

    These are the best so far by validation if the best are kept, else the newest. So the run has an adapter while it
    trains and after its process was killed.

    Args:
        folder: The adapter directory.
        facts: Lines for its README, name → text.
    """

    def __init__(self, folder: Path, facts: Mapping[str, str]) -> None:
        self.folder, self.facts = folder, facts

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save the adapter if the edits of this checkpoint would be kept."""
        # A stop within an epoch saves a checkpoint without a validation, which may not be the best.
        best = not args.load_best_model_at_end or state.best_global_step == state.global_step
        if best and state.is_world_process_zero:
            model = getattr(kwargs["model"], "module", kwargs["model"])
            assert isinstance(model, EditedModel)
            so_far = f"step {state.global_step:,} of {state.max_steps:,}, written while the run was training"
            publish_adapter(model, self.folder, {**self.facts, "Edits": so_far})


def publish_adapter(model: EditedModel, folder: Path, facts: Mapping[str, str]) -> None:
    """Replace the adapter in `folder` by that of a model; readers see either the old or the new tensors.

    The adapter is written to a temporary folder and then moved, with the tensors last. `InputError` if the disk is
    full.
    """
    draft = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    save_adapter(model, draft, facts)
    with disk_errors(folder):
        if not folder.exists():
            draft.rename(folder)
            return
        for path in sorted(draft.iterdir(), key=lambda path: path.name == WEIGHTS_NAME):
            os.replace(path, folder / path.name)
        draft.rmdir()
