"""Callbacks of training: they record gates, keep edits, and stop early."""

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
    """Stop after `patience` validations without a lower cross-entropy, whatever the penalty does.

    That of transformers watches the number that also chooses the best checkpoint, which is the whole objective here.
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
        """What a checkpoint needs to go on counting."""
        return {"args": {"patience": self.patience}, "attributes": {"best": self.best, "waited": self.waited}}


class BeforeSteps(TrainerCallback):
    """Call a function before every step with the number of the step, from 0, and of all steps."""

    def __init__(self, function: Callable[[int, int], None]) -> None:
        self.function = function

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Call it."""
        self.function(state.global_step, state.max_steps)


class FreeThreads(TrainerCallback):
    """Train with as many threads as there are free cores; see `jola.system.threads`."""

    def __init__(self, control: ThreadControl) -> None:
        self.control = control

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Decide anew from time to time."""
        self.control.update()

    on_prediction_step = on_step_end


class GateRecorder(TrainerCallback):
    """Write the edits of every site at the start, every `every` steps and at the end.

    The record of the last step holds the gates of that step, also where the best checkpoint is restored after it.

    Args:
        writers: One `GateWriter` for each site, by name.
        every: Steps between two records.
        offset: Steps before this training, of earlier stages.
    """

    def __init__(self, writers: dict[str, GateWriter], every: int = 1, offset: int = 0) -> None:
        self.writers, self.every, self.offset = writers, every, offset

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Record where training starts; where it is taken up again, only what an unbroken run would record."""
        if state.global_step % self.every == 0:
            self.record(kwargs["model"], state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Record when it is time."""
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
        """Append one record for each intervention: plain numbers, so that no graph or activation is held."""
        if not state.is_world_process_zero:
            return
        unwrapped = getattr(model, "module", model)
        assert isinstance(unwrapped, EditedModel)
        for edits in unwrapped.own_interventions():
            fields = {name: values.cpu().numpy() for name, values in edits.record().items()}
            self.writers[edits.site].append(self.offset + state.global_step, fields)


@contextmanager
def gate_writers(run: Run, model: EditedModel, first: bool) -> Iterator[dict[str, GateWriter]]:
    """The writer of the history of each site, by its name; none but in the first process."""
    with ExitStack() as stack:
        yield {
            str(i.site): stack.enter_context(
                # Heads are numbered and need no names.
                run.gate_writer(
                    i.site, i.layers, i.units, tuple(i.record()), i.unit_names if i.site is Site.WEIGHTS else None
                )
            )
            for i in (model.own_interventions() if first else ())
        }


class AdapterKeeper(TrainerCallback):
    """Write the adapter at every checkpoint whose edits would be kept if training ended there.

    These are the best so far by validation where the best are kept, else the newest. Whoever opens the run while it
    trains finds them, and so does one whose process was killed.

    Args:
        folder: The adapter directory.
        facts: What its README lists (name → text).
    """

    def __init__(self, folder: Path, facts: Mapping[str, str]) -> None:
        self.folder, self.facts = folder, facts

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write it, if this checkpoint is one to keep."""
        # A stop within an epoch saves without a validation: what it saves is not known to be the best.
        best = not args.load_best_model_at_end or state.best_global_step == state.global_step
        if best and state.is_world_process_zero:
            model = getattr(kwargs["model"], "module", kwargs["model"])
            assert isinstance(model, EditedModel)
            so_far = f"step {state.global_step:,} of {state.max_steps:,}, written while the run was training"
            publish_adapter(model, self.folder, {**self.facts, "Edits": so_far})


def publish_adapter(model: EditedModel, folder: Path, facts: Mapping[str, str]) -> None:
    """Put the adapter of a model in place of the one in `folder`, whose readers find the old tensors or the new ones.

    It is written beside and moved, the tensors last: they come when everything else is there. `InputError` when the
    disk is full.
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
