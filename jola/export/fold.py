"""Fold edits into the weights: a plain checkpoint that transformers loads without JoLA.

With y = W z + b the attention output projection and z' = s ⊙ z + c an edit of its input,

    y = W (s ⊙ z + c) + b = (W diag(s)) z + (b + W c),

so scales are folded into the columns of W and offsets into its bias. An edit of the MLP output is folded into the rows
and the bias of the last projection of the MLP. A change of a weight is added to the weight. Folding is exact up to the
data type: in bfloat16, a scale of 1.001 rounds to 1. `export_merged` therefore measures the result (see
`jola.export.exactness`) and raises an error if the edits are lost.
"""

import time
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from jola.errors import InputError
from jola.export import exactness
from jola.export.card import folded_card
from jola.export.exactness import Deviation, percent
from jola.export.foldable import Foldable, foldable_edits
from jola.export.folders import new_folder, quiet_transformers, size_of
from jola.export.projections import target_of
from jola.export.rebuild import rebuild
from jola.export.source import refuse_export
from jola.model.loading import DTYPES
from jola.model.packing import attention_in_float32
from jola.model.resting import at_rest
from jola.system.files import disk_errors
from jola.system.progress import Progress, Quiet

if TYPE_CHECKING:
    from jola.model.edited import EditedModel, Masks

LOST_LIMIT = 0.1
"""Maximum share of the edits' effect that an export may lose (`jola.export.exactness`)."""


@dataclass(frozen=True)
class FoldReport:
    """The exported checkpoint and its exactness.

    |Δlogit| covers all positions of `prompts` prompts with `tokens` tokens in total, in float32 arithmetic.
    """

    folder: str
    base_model: str
    architecture: str
    converted_from: str | None
    """Architecture of the frozen model, if the checkpoint has another one."""
    dtype: str
    bytes: int
    added_numbers: int
    """Number of added weights (biases) compared with the frozen model."""
    prompts: int
    tokens: int
    effect: float
    """Largest |Δlogit| between the edited and the frozen model."""
    before_cast: Deviation
    """The folded weights in float32 against the edited model."""
    after_cast: Deviation
    """The written weights against the edited model."""
    base_rounding: float
    """Largest |Δlogit| caused by the data type in the frozen model, without edits."""
    seconds: float

    @property
    def lossy(self) -> bool:
        """Whether more of the edits' effect was lost than `LOST_LIMIT`."""
        return not max(self.before_cast.lost, self.after_cast.lost) <= LOST_LIMIT

    def describe(self) -> str:
        """A summary of a few lines."""
        kind = self.architecture + (f", converted from {self.converted_from}" if self.converted_from else "")
        n = f"n = {self.prompts} prompts, {self.tokens} tokens"
        after = self.after_cast
        rounding = f" ({self.base_rounding:.2g} of it without any edit)" if self.base_rounding else ""
        return "\n".join(
            [
                f"checkpoint      {self.folder}",
                f"model           {self.base_model} ({kind}), {self.dtype}, {self.bytes / 1e6:.1f} MB, "
                f"{self.added_numbers:,} numbers added as biases",
                f"edits change    logits by up to {self.effect:.3g} ({n})",
                f"before the cast max |Δlogit| {self.before_cast.largest:.2g}, {percent(self.before_cast.lost)} of the "
                "edits' effect lost",
                f"after the cast  max |Δlogit| {after.largest:.2g}{rounding}, {percent(after.lost)} of it lost; "
                f"same most likely token at {after.same_top} of {self.tokens} positions",
            ]
        )


def merge(
    model: "EditedModel", mask: "Masks" = None, strength: float = 1.0, *, dtype: str | torch.dtype | None = None
) -> PreTrainedModel:
    """Fold the edits into a new plain model; the given model is not changed.

    Args:
        mask: Switches and strengths of single edits, as for `EditedModel.forward`; they are folded in.
        strength: Factor on every edit.
        dtype: Data type of the new model; None uses that of the frozen model. A 16-bit format may round scales
            close to 1 to exactly 1; `export_merged` measures this.

    Returns:
        A model of the same class, or Llama for Qwen2 and Mistral with offsets, on the device of the frozen model.

    Raises:
        InputError: The edits cannot be folded into this architecture; the message says what to do instead.
    """
    refuse_export(model, "merged")
    with quiet_transformers():
        return rebuild(model.base, foldable_edits(model, mask, strength), _dtype(dtype, model))


def merge_and_unload(
    model: "EditedModel",
    safe: bool = True,
    *,
    dtype: str | torch.dtype | None = None,
    prompts: Sequence[str] | None = None,
    mask: "Masks" = None,
    strength: float = 1.0,
) -> PreTrainedModel:
    """`merge`, with the check of `export_merged` if ``safe``.

    Args:
        safe: Refuse a data type that loses more than `LOST_LIMIT` of the edits' effect; False skips the check.
        prompts: Prompts for the measurement, each one user turn; None uses `jola.export.exactness.PROMPTS`.

    Raises:
        InputError: As for `merge`, or the data type loses the edits.
    """
    merged = merge(model, mask, strength, dtype=dtype)
    if not safe:
        return merged
    rows, steps = exactness.encode_prompts(model, prompts), exactness.Steps(Quiet())
    edits, form = foldable_edits(model, mask, strength), merged.dtype
    with quiet_transformers():
        edited, base = references(model, rows, mask, strength, steps)

        def logits(edits: Foldable, rounding: torch.dtype) -> list[Tensor]:
            plain = rebuild(model.base, edits, torch.float32, rounding=rounding)
            return steps.through(exactness.plain_logits(plain), rows)

        before = exactness.deviation(edited, base, logits(edits, torch.float32))
        after = before
        if form != torch.float32:
            after = exactness.deviation(edited, base, logits(edits, form), logits(Foldable(), form))
    if not max(before.lost, after.lost) <= LOST_LIMIT:
        effect = exactness.largest_difference(edited, base)
        raise InputError(f"Nothing was merged: {_lost(form, before, after, effect, rows)}; {_finer(form)}.")
    return merged


def export_merged(
    model: "EditedModel",
    folder: Path | str,
    dtype: str | torch.dtype | None = None,
    prompts: Sequence[str] | None = None,
    safe: bool = True,
    *,
    mask: "Masks" = None,
    strength: float = 1.0,
    progress: Progress | None = None,
) -> FoldReport:
    """Write the edited model as a plain Hugging Face checkpoint with its tokenizer, and measure its exactness.

    The folder is written completely or not at all. For the measurement, the checkpoint is loaded again with
    ``AutoModelForCausalLM``.

    Args:
        folder: A new folder.
        dtype: Data type of the weights; None uses that of the loaded model.
        prompts: Prompts for the measurement, each one user turn; None uses `jola.export.exactness.PROMPTS`.
        safe: Refuse a checkpoint that loses more than `LOST_LIMIT` of the edits' effect; False writes it and warns.
        mask, strength: As for `merge`.

    Raises:
        InputError: The edits cannot be folded into this architecture, the data type loses them, or the folder
            already exists or cannot be written.
    """
    began, progress = time.monotonic(), progress or Quiet()
    refuse_export(model, "merged")
    form = _dtype(dtype, model)
    edits = foldable_edits(model, mask, strength)
    target = target_of(model.base, edits)  # raises before the slow steps
    rows = exactness.encode_prompts(model, prompts)
    with new_folder(folder) as draft, quiet_transformers():
        progress.phase("Measuring", (4 if _rounds(model, form) else 3) * len(rows))
        steps = exactness.Steps(progress)
        edited, base = references(model, rows, mask, strength, steps)
        rounded_base = base
        if _rounds(model, form):
            plain = rebuild(model.base, Foldable(), torch.float32, rounding=form)
            rounded_base = steps.through(exactness.plain_logits(plain), rows)
            del plain
        merged = rebuild(model.base, edits, torch.float32)
        before = exactness.deviation(edited, base, steps.through(exactness.plain_logits(merged), rows))
        del merged
        progress.phase("Writing the checkpoint")
        added = _write(model, edits, form, draft)
        progress.phase("Measuring the checkpoint", len(rows))
        steps = exactness.Steps(progress)
        written = steps.through(exactness.plain_logits(_reload(draft, model)), rows)
        after = exactness.deviation(edited, base, written, rounded_base)
        report = FoldReport(
            folder=str(folder),
            base_model=model.name,
            architecture=target.config.model_type,
            converted_from=target.converted_from,
            dtype=str(form).removeprefix("torch."),
            bytes=size_of(draft),
            added_numbers=added,
            prompts=len(rows),
            tokens=sum(ids.shape[1] for ids in rows),
            effect=exactness.largest_difference(edited, base),
            before_cast=before,
            after_cast=after,
            base_rounding=exactness.largest_difference(rounded_base, base),
            seconds=time.monotonic() - began,
        )
        _judge(report, rows, safe, progress)
        with disk_errors(draft):
            (draft / "README.md").write_text(folded_card(model, report), encoding="utf-8")
            for file in draft.iterdir():  # transformers writes some files that only their owner can read
                file.chmod((draft / "README.md").stat().st_mode)
    return report


def references(
    model: "EditedModel", rows: Sequence[Tensor], mask: "Masks", strength: float, steps: exactness.Steps
) -> tuple[list[Tensor], list[Tensor]]:
    """Logits of the edited model and of the frozen model, in float32."""
    with at_rest(model):
        wide, used = _in_float32(model)
        with used:
            edited = steps.through(exactness.edited_logits(wide, mask, strength), rows)
        with wide.disable_edits():
            return edited, steps.through(exactness.edited_logits(wide), rows)


def _in_float32(model: "EditedModel") -> tuple["EditedModel", AbstractContextManager[Any]]:
    """The model, or a copy with the base in float32, and a context in which its edits are in use."""
    if model.base.dtype == torch.float32:
        return model, model.using(model.in_use)
    wide = type(model)(rebuild(model.base, Foldable(), torch.float32), model.tokenizer, name=model.name)
    with wide.lock:
        used = [intervention.copied_to(wide.base) for intervention in model.in_use]
        wide.traced.wrap()
    return wide, wide.using(used)


def _rounds(model: "EditedModel", form: torch.dtype) -> bool:
    """Whether the data type can change the frozen weights."""
    return form != torch.float32 and form != model.base.dtype


def _write(model: "EditedModel", edits: Foldable, form: torch.dtype, draft: Path) -> int:
    """Write weights, configurations and tokenizer; returns the number of weights added to the frozen model."""
    merged = rebuild(model.base, edits, form)
    with disk_errors(draft):
        try:
            merged.save_pretrained(draft)
        except ValueError as error:  # an inconsistent generation configuration
            raise InputError(
                f"The generation settings of this model cannot be saved ({str(error).splitlines()[0]}); change "
                "model.base.generation_config and export it again."
            ) from error
        model.tokenizer.save_pretrained(draft)
    return sum(p.numel() for p in merged.parameters()) - sum(p.numel() for p in model.frozen_parameters().values())


def _reload(folder: Path, model: "EditedModel") -> PreTrainedModel:
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation=attention_in_float32(model.base),
        use_safetensors=True,
        output_loading_info=True,
    )
    merged, report = loaded
    if problems := [str(key) for kind in ("missing_keys", "unexpected_keys") for key in sorted(report[kind])]:
        raise InputError(
            f"The exported checkpoint cannot be read back ({', '.join(problems[:3])} missing or unexpected); export "
            "the adapter instead."
        )
    return merged.to(model.device).eval()


def _judge(report: FoldReport, rows: Sequence[Tensor], safe: bool, progress: Progress) -> None:
    if not report.lossy:
        return
    form = DTYPES[report.dtype]
    what = _lost(form, report.before_cast, report.after_cast, report.effect, rows)
    if safe:
        raise InputError(f"Nothing was written: {what}; {_finer(form)}.")
    progress.note(what)
    warnings.warn(what, stacklevel=3)


def _lost(form: torch.dtype, before: Deviation, after: Deviation, effect: float, rows: Sequence[Tensor]) -> str:
    return (
        f"in {str(form).removeprefix('torch.')} the checkpoint loses {percent(after.lost)} of the edits' effect on the "
        f"logits, but the limit is {percent(LOST_LIMIT)}: max |Δlogit| is {before.largest:.2g} before the cast and "
        f"{after.largest:.2g} after it while the edits change logits by up to {effect:.2g} (n = {len(rows)} prompts, "
        f"{sum(ids.shape[1] for ids in rows)} tokens)"
    )


def _finer(form: torch.dtype) -> str:
    return f"choose {'float16 or float32' if form == torch.bfloat16 else 'float32'}, or allow it with safe=False"


def _dtype(dtype: str | torch.dtype | None, model: "EditedModel") -> torch.dtype:
    if dtype is None:
        return model.base.dtype
    form = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if form is None or form not in DTYPES.values():
        raise InputError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}.")
    return form
