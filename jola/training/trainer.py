"""`JoLATrainer`: transformers' Trainer with the parameter groups of a method and the objective of JoLA.

Everything else is that of transformers: resuming, `accelerate launch`, schedulers, trackers.
"""

import logging
import math
from collections.abc import Callable, Sequence, Sized
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import EvalLoopOutput

from jola.config import TrainingConfig
from jola.data.examples import IGNORED, Encoded, collate, pad_token_of
from jola.errors import DIVERGED, InputError
from jola.model.edited import EditedModel
from jola.reference.data import TextDataset, encode_texts, hold_out
from jola.training.callbacks import AdapterKeeper, CrossEntropyPatience, GateRecorder, publish_adapter
from jola.training.objective import PENALTIES, L0Schedule, Penalty, expected_open

__all__ = [
    "REFERENCE_SCHEDULES",
    "AdapterKeeper",
    "CrossEntropyPatience",
    "GateRecorder",
    "JoLATrainer",
    "publish_adapter",
]

logger = logging.getLogger(__name__)

REFERENCE_SCHEDULES = {
    "linear": "linear",
    "cyclic": "cyclic",
    "perform": "performance",
    "expon": "exponential",
    "": "constant",
}
"""Names of the λ schedules in the reference package."""


class JoLATrainer(Trainer):
    """Train the edits and gates of a `JoLAModel`.

    Args:
        model: The model; only its interventions train.
        args: Training arguments of transformers. ``learning_rate`` is that of the offsets and scales.
        train_dataset: A sequence of `Encoded` examples, or a data set with a ``text`` column in the format of the
            reference package.
        eval_dataset: The same for validation, which measures accuracy and cross-entropy without the penalty.
        data_collator: None for `Encoded` examples; the result of `make_data_collator` for a ``text`` column.
        gate_learning_rate: Peak learning rate of the gates; None is ten times ``args.learning_rate``.
        l0_weight: λ.
        l0_schedule: Schedule of λ: 'constant', 'late', 'linear', 'cyclic', 'performance', 'exponential'.
        objective: 'paper' or 'reference', see `jola.training.objective`.
        loss_reduction: 'token' or 'answer', see `EditedModel.forward`.
        penalty: Added to the cross-entropy; None uses that of `objective`.
        constant_gate_rate: Keep the learning rate of the gates, the last group of the optimizer, at its peak.
        settle_ratio: Fraction of the steps, at the end, in which the gates stay at their evaluation values and only the
            edits train.
        gate_scheduler: Name of a schedule in the reference package: 'expon', 'linear', 'cyclic', 'perform', or '' or
            False to set `gated_lambda` manually. If given, the loss of the reference package and its single learning
            rate are used.
        tokenizer: Tokenizer for a ``text`` column; by default that of the model.
        max_seq_length: Maximum length of a ``text`` in tokens; the number of longer ones, which are left out, is
            logged.
    """

    def __init__(
        self,
        model: EditedModel,
        args: TrainingArguments | None = None,
        train_dataset: "Sequence[Encoded] | Dataset[Any] | None" = None,
        eval_dataset: "Sequence[Encoded] | Dataset[Any] | None" = None,
        data_collator: Callable[[list[Any]], dict[str, Tensor]] | None = None,
        *,
        gate_learning_rate: float | None = None,
        l0_weight: float = TrainingConfig.l0_weight,
        l0_schedule: str = TrainingConfig.l0_schedule,
        objective: str = "paper",
        loss_reduction: str = TrainingConfig.loss_reduction,
        penalty: Penalty | None = None,
        constant_gate_rate: bool = False,
        settle_ratio: float = TrainingConfig.settle_ratio,
        gate_scheduler: str | Literal[False] | None = None,
        tokenizer: Any = None,
        max_seq_length: int = 400,
        dataset_text_field: str = "text",
        callbacks: list[TrainerCallback] | None = None,
        **others: Any,
    ) -> None:
        others.pop("peft_config", None)
        args = args or TrainingArguments(output_dir="jola-output")
        if args.n_gpu > 1:
            # Trainer would use DataParallel, whose copies of the model cannot be traced.
            args._n_gpu = 1
        if gate_scheduler is not None:
            gate_scheduler = gate_scheduler or ""
            if gate_scheduler not in REFERENCE_SCHEDULES:
                raise InputError(
                    f"gate_scheduler is {gate_scheduler!r}; choose one of {', '.join(REFERENCE_SCHEDULES)} or ''."
                )
            objective, l0_schedule, loss_reduction = "reference", REFERENCE_SCHEDULES[gate_scheduler], "token"
            gate_learning_rate = args.learning_rate
        text = TextDataset(tokenizer or model.tokenizer, data_collator, dataset_text_field, max_seq_length)
        # Trainer accepts any sequence of rows, although its annotations require a Dataset.
        training_rows: Any = encode_texts(train_dataset, text, "training")
        validation_rows: Any = encode_texts(eval_dataset, text, "validation")
        if validation_rows is None and args.eval_strategy != "no" and training_rows is not None:
            training_rows, validation_rows = hold_out(training_rows, args.seed)
        self.gate_learning_rate = gate_learning_rate or 10 * args.learning_rate
        self.penalty: Penalty = penalty or PENALTIES[objective]
        self.constant_gate_rate = constant_gate_rate
        self.loss_reduction = loss_reduction
        self.parts: list[Tensor] = []
        """Cross-entropy and penalty, (2,), for each batch of the last training step."""
        self.l0_weight = l0_weight
        """λ of the last training step."""
        pad = pad_token_of(model.tokenizer)
        super().__init__(
            model=model,
            args=args,
            train_dataset=training_rows,
            eval_dataset=validation_rows,
            data_collator=lambda rows: collate(rows, pad),
            compute_metrics=lambda found: {"accuracy": float(np.mean(found.predictions))},
            callbacks=callbacks,
            **others,
        )
        # The loss is the mean of a batch, so Trainer must divide it by the number of accumulated batches.
        self.loss_is_scaled_for_ga = False
        self.schedule = L0Schedule(l0_schedule, l0_weight, self.total_steps(), reference=objective == "reference")
        self.add_callback(self.schedule)
        self.settle_step = round((1 - settle_ratio) * self.total_steps()) if settle_ratio else math.inf
        """First step, from 0, in which the gates no longer train."""
        self._micro_step = (-1, 0)

    @property
    def gated_lambda(self) -> float:
        """λ of the constant schedule, by its name in the reference package."""
        return self.schedule.unit

    @gated_lambda.setter
    def gated_lambda(self, value: float) -> None:
        self.schedule.unit = value

    @property
    def edited(self) -> EditedModel:
        """The model without the wrappers of distributed training."""
        model = self.accelerator.unwrap_model(self.model)
        assert isinstance(model, EditedModel)
        return model

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with the groups of the method: gates have their own learning rate and no weight decay."""
        if self.optimizer is None:
            edited_model = self.edited
            groups = edited_model.method.parameter_groups(
                edited_model.own_interventions(), self.args.weight_decay, self.gate_learning_rate
            )
            # Trainer declares a model of transformers, but uses only the names of its modules.
            edited: Any = self.edited
            optimizer, arguments = self.get_optimizer_cls_and_kwargs(self.args, edited)
            self.optimizer = optimizer(groups, **arguments)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """The schedule of the settings; with `constant_gate_rate`, it does not apply to the gates.

        The rate of settled gates is 0, because Adam would move them further without a gradient.
        """
        existed = self.lr_scheduler is not None
        schedule: Any = super().create_scheduler(num_training_steps, optimizer)
        has_gates = any(edits.gate_parameters() for edits in self.edited.gated_edits())
        if existed or not has_gates or not (self.constant_gate_rate or math.isfinite(self.settle_step)):
            return schedule
        rate = (lambda step: 1.0) if self.constant_gate_rate else schedule.lr_lambdas[-1]
        schedule.lr_lambdas[-1] = lambda step: rate(step) if step < self.settle_step else 0.0
        gates = schedule.optimizer.param_groups[-1]
        gates["lr"] = gates["initial_lr"] * schedule.lr_lambdas[-1](0)
        return schedule

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as transformers does; afterwards, the gates of the model are no longer settled."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self._settle(False)

    def _settle(self, settled: bool) -> None:
        for edits in self.edited.gated_edits():
            edits.settle(settled)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Train on one batch. The gate noise depends only on seed and step, so that a resumed run repeats it."""
        step, micro = self._micro_step
        self._micro_step = (self.state.global_step, micro + 1 if step == self.state.global_step else 0)
        self._settle(self.state.global_step >= self.settle_step)
        position = self.state.global_step * self.args.gradient_accumulation_steps + self._micro_step[1]
        self.edited.seed_gates(
            (self.args.seed * 1_000_003 + position * self.args.world_size + self.args.process_index) * 8 % 2**63
        )
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not bool(torch.isfinite(loss)):
            raise InputError(
                f"{DIVERGED}: the loss of step {self.state.global_step + 1} is not finite; train again with "
                "a lower --learning-rate."
            )
        if self.schedule.kind == "performance":
            # The reference code compares the loss of a batch; Trainer has divided it by the number of batches.
            mean: Any = self.accelerator.reduce(loss.clone(), reduction="mean")
            self.schedule.observe(float(mean) * self.current_gradient_accumulation_steps)
        return loss.to(self.args.device)  # the frozen model may be on another accelerator

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Cross-entropy plus penalty in training, only cross-entropy in evaluation."""
        outputs = model(**inputs, reduction=self.loss_reduction)
        loss = outputs.loss
        if model.training:
            self.l0_weight = self.schedule.value(self.state.global_step)
            penalty = self.penalty(self.edited.gated_edits(), self.l0_weight).to(loss)
            if self._micro_step[1] == 0:
                self.parts = []
            self.parts.append(torch.stack([loss, penalty]).detach())
            loss = loss + penalty
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the parts of the objective and both learning rates to the logs of a step."""
        if "loss" in logs and self.parts:
            # The mean over the batches of a step and over the processes, as Trainer computes for the loss.
            mean: Any = self.accelerator.reduce(torch.stack(self.parts).mean(0), reduction="mean")
            logs |= dict(zip(("cross_entropy", "penalty"), mean.tolist(), strict=True))
            logs["l0_weight"] = self.l0_weight
            if any(edits.log_alphas() for edits in self.edited.gated_edits()):
                logs["expected_open"] = float(expected_open(self.edited.gated_edits()).detach())
            last_rates = getattr(self.lr_scheduler, "get_last_lr", None)  # schedulers of DeepSpeed may not have it
            if last_rates is not None:
                rates = last_rates()
                logs["learning_rate"], logs["gate_learning_rate"] = float(rates[0]), float(rates[-1])
        super().log(logs, start_time)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """Run the evaluation loop of transformers and add metrics.

        Returns:
            Metrics ``eval_loss``, the cross-entropy; ``eval_objective``, the cross-entropy plus the penalty with the λ
            of this step; ``eval_accuracy``, the share of the answers that greedy decoding would give exactly; and
            ``eval_selection``, which ranks epochs, see `selection`.
        """
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        metrics = output.metrics or {}
        loss = metrics.get(f"{metric_key_prefix}_loss")
        if loss is not None:
            penalty = self.penalty(self.edited.gated_edits(), self.schedule.value(self.state.global_step))
            metrics[f"{metric_key_prefix}_objective"] = loss + float(penalty.detach())
            metrics[f"{metric_key_prefix}_selection"] = selection(
                metrics[f"{metric_key_prefix}_accuracy"],
                loss,
                output.num_samples or 1,
                self.state.global_step / max(self.state.max_steps, 1),
            )
        return output

    @torch.no_grad()
    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of a batch, and `rows_correct`."""
        inputs = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        correct = rows_correct(outputs.logits, inputs["labels"]).to(self.args.device)
        return loss.detach().mean().to(self.args.device), correct, correct

    def _load_callback_state(self) -> None:
        """Restore callbacks as in transformers, but in place, because other objects refer to the callbacks."""
        if not self.args.restore_callback_states_from_checkpoint:
            return
        states: Any = self.state.stateful_callbacks
        for callback in self.callback_handler.callbacks:
            saved = states.get(type(callback).__name__)
            if isinstance(callback, ExportableState) and isinstance(saved, dict):
                for name, value in saved["attributes"].items():
                    setattr(callback, name, value)

    def total_steps(self) -> int:
        """Number of optimizer steps of the whole training."""
        if self.args.max_steps > 0:
            return self.args.max_steps
        if not isinstance(self.train_dataset, Sized):
            return 1
        batch = self.args.train_batch_size * self.args.world_size
        batches = -(-len(self.train_dataset) // batch)
        updates = -(-batches // self.args.gradient_accumulation_steps)
        return int(max(updates, 1) * self.args.num_train_epochs)


def rows_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether greedy decoding would give exactly the answer of each row, (batch,) of float: 1 or 0.

    It does if each token of the answer is the most likely one after the tokens before it.

    Args:
        logits: (answer tokens, vocabulary), in the row-major order of the labels.
        labels: (batch, tokens), −100 where there is no loss.
    """
    targets = labels[:, 1:].to(logits.device)
    answers = targets != IGNORED
    wrong = torch.zeros(answers.shape, dtype=torch.bool, device=logits.device)
    wrong[answers] = logits.argmax(-1) != targets[answers]
    return 1.0 - wrong.any(-1).float()


def selection(accuracy: float, cross_entropy: float, n: int, progress: float) -> float:
    """A number that is highest for the epoch to keep.

    This is the epoch with the highest validation accuracy, and among ties the latest. If no answer is correct, which is
    usual for long answers, it is the epoch with the lowest cross-entropy; any epoch with a correct answer is better.

    Args:
        accuracy: Share of correct answers.
        cross_entropy: In nats, not negative.
        n: Number of validation examples.
        progress: Finished share of the training, from 0 to 1.
    """
    correct = round(accuracy * n)
    return (correct + progress / 2) / n if correct else -cross_entropy
