"""An edited model in the Language Model Evaluation Harness (lm-eval), as the model type ``jola``.

    python -m jola.evaluation.harness run --model jola --model_args adapter=FOLDER --tasks hellaswag --batch_size 16

runs any of its tasks on an adapter; everything after ``jola.evaluation.harness`` is passed to the harness. In
releases of the harness that read entry points, ``lm_eval run --model jola`` works too; in Python, call `register`
first. The harness is installed with the extra ``lm-eval``.
"""

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jola.errors import InputError

if TYPE_CHECKING:
    from jola.jola_model import JoLAModel

MODEL_TYPE = "jola"


def register() -> None:
    """Register the model type with the harness, for this process.

    Raises:
        InputError: The harness is not installed.
    """
    registry = _registry()
    if MODEL_TYPE not in registry:
        registry.register(MODEL_TYPE, target=f"jola.evaluation.harness:{_NAME}")


def main() -> None:
    """Run the harness's command line with the model type ``jola``; bad input exits with code 2."""
    try:
        register()
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


class HookedModel:
    """A plain model whose forward passes are edited, for code that works only with plain models."""

    def __init__(self, edited: "JoLAModel", strength: float = 1.0) -> None:
        self.edited, self.strength = edited, strength

    def __getattr__(self, name: str) -> Any:
        return getattr(self.edited.base, name)

    def __call__(self, input_ids: Any, attention_mask: Any = None) -> Any:
        return self.edited(input_ids, attention_mask, strength=self.strength)

    def scores(self, pairs: Sequence[tuple[list[int], list[int]]], most: int) -> list[tuple[float, bool]]:
        """Return (ln p(answer | context), whether it is the greedy answer) for each pair of token ids.

        Args:
            most: Maximum number of tokens in a pass, not counting the last one; contexts are truncated at their
                beginning.
        """
        import torch

        from jola.data.examples import IGNORED, Encoded, collate, pad_token_of

        rows = []
        for context, answer in pairs:
            ids = (context + answer)[-(most + 1) :]
            rows.append(Encoded(ids, len(ids) - len(answer)))
        batch = collate(rows, pad_token_of(self.edited.tokenizer))
        with torch.no_grad():
            logits = self.edited(**batch, strength=self.strength).logits.float().cpu()
        targets = batch["labels"][:, 1:]
        row, _ = (targets != IGNORED).nonzero(as_tuple=True)
        chosen = targets[targets != IGNORED]
        each = logits.log_softmax(-1).gather(-1, chosen[:, None])[:, 0]
        missed = (logits.argmax(-1) != chosen).float()
        total, misses = (torch.zeros(len(rows)).index_add(0, row, values) for values in (each, missed))
        return [(float(score), not bool(wrong)) for score, wrong in zip(total, misses, strict=True)]

    def generate(self, input_ids: Any, attention_mask: Any = None, **arguments: Any) -> Any:
        """See ``generate`` of transformers."""
        return self.edited.generate(input_ids, attention_mask, strength=self.strength, **arguments)


@cache
def _model_type() -> type:
    """Create the class on first use, because its base class is in an optional package."""
    _registry()
    from lm_eval.models.huggingface import HFLM

    plain_type: Any = HFLM

    class JoLAHarness(plain_type):
        """`HFLM` on an edited model.

        Args:
            adapter: Adapter directory, zip file, "owner/name" on the Hub, or the id or directory of a run.
            revision: Revision of an adapter on the Hub.
            model: Base model, if it is not where the adapter says.
            strength: Factor on every edit; 0 is the base model.
            dtype, device: See `JoLAModel.from_pretrained`.
            others: Arguments of ``HFLM``: batch_size, max_length, add_bos_token, …
        """

        def __init__(
            self,
            adapter: str,
            revision: str | None = None,
            model: str | None = None,
            strength: float = 1.0,
            dtype: str = "auto",
            device: str | None = None,
            **others: Any,
        ) -> None:
            from jola.jola_model import JoLAModel

            edited = JoLAModel.from_adapter(
                _find(adapter), revision=revision, model=model, dtype=dtype, device=device or "auto"
            )
            plain: Any = HookedModel(edited, float(strength))
            super().__init__(pretrained=plain, tokenizer=edited.tokenizer, backend="causal", **others)

        def _loglikelihood_tokens(
            self,
            requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
            disable_tqdm: bool = False,
            override_bs: int | None = None,
        ) -> list[tuple[float, bool]]:
            """Override the method of ``HFLM``, whose passes lack the ends of contexts that edits of prompts need."""
            plain: Any = self.model
            if all(i.uniform for i in plain.edited.in_use):
                return super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
            size = override_bs or (self.batch_size if isinstance(self.batch_size, int) else 1)
            pairs = [(context, answer) for _, context, answer in requests]
            found: list[tuple[float, bool]] = []
            for start in range(0, len(pairs), size):
                found += plain.scores(pairs[start : start + size], self.max_length)
            for (texts, *_), answer in zip(requests, found, strict=True):
                if texts is not None:
                    self.cache_hook.add_partial("loglikelihood", texts, answer)
            return found

    return JoLAHarness


_NAME = "JoLAHarness"


def __getattr__(name: str) -> Any:
    if name == _NAME:
        return _model_type()
    raise AttributeError(f"module 'jola.evaluation.harness' has no attribute {name!r}")


def _registry() -> Any:
    try:
        import lm_eval.models  # noqa: F401  # imported to register its own types first
        from lm_eval.api.registry import model_registry
    except ImportError as error:
        raise InputError(
            f"The evaluation harness is not installed ({error}); pip install 'jola-workbench[lm-eval]'."
        ) from error
    return model_registry


def _find(adapter: str) -> str | Path:
    """Return the location of an adapter, or that of the run with this id."""
    from jola.runs.run import Run
    from jola.runs.store import RunStore

    path = Path(adapter)
    if path.is_dir() and Run(path).is_run():
        return Run(path).adapter_dir
    try:
        return adapter if path.exists() or "/" in adapter else RunStore().get(adapter).adapter_dir
    except InputError as error:
        raise InputError(f"There is neither an adapter nor a run {adapter}; `jola runs` lists the runs.") from error


if __name__ == "__main__":
    main()
