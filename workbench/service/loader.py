"""Loads the base models and the edits of runs."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jola.data.assets import ASSETS
from jola.errors import InputError
from jola.runs.run import Run
from jola.system.paths import is_there

if TYPE_CHECKING:
    from jola.data.examples import Template
    from jola.edits.intervention import Intervention
    from jola.model.edited import EditedModel


@dataclass(frozen=True)
class Loaded:
    """A loaded base model, and the prompt templates of its runs."""

    model: "EditedModel"
    templates: "dict[str, Template]" = field(default_factory=dict)

    def template(self, run: Run) -> "Template":
        """Return the prompt template of a run. Raises `InputError` if the tokenizer does not have it."""
        from jola.data.examples import Template

        kind = run.run_config().data.template
        if kind not in self.templates:
            self.templates[kind] = Template(self.model.tokenizer, kind)
        return self.templates[kind]


_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


class Loader:
    """Loads models and edits.

    Args:
        check: Called with the name of a model and its device map; raises `InputError` if it may not be loaded, because
            an imported run may name any model.
    """

    def __init__(self, check: Callable[[str, str | None], None] = lambda name, device_map: None) -> None:
        self._check = check

    def base_name(self, run: Run, remote: bool = False) -> Hashable:
        """Return the key of a base model; runs with equal keys share one."""
        if remote:
            return ("remote", *self.model_of(run))
        config = run.run_config()
        return (
            *self.model_of(run),
            config.model.dtype,
            config.model.device,
            config.model.device_map,
            config.model.quantize,
        )

    def model_of(self, run: Run) -> tuple[str, str | None]:
        """Return name and revision of the base model, regardless of the dtype and device of the run."""
        return self._model_name(run), run.run_config().model.revision

    def base(self, run: Run, remote: bool = False) -> Loaded:
        """Load the base model of a run, from the same source and with the same dtype as the run.

        With ``remote``, NDIF runs the model, and only its configuration and tokenizer are loaded.
        """
        from jola.jola_model import JoLAModel

        config, name = run.run_config(), self._model_name(run)
        self._check(name, config.model.device_map)
        refuse_unasked_fetch(run, name, config.model.revision)
        if remote:
            from jola.remote import RemoteModel

            return Loaded(RemoteModel.from_pretrained(name, revision=config.model.revision))
        model = JoLAModel.from_pretrained(
            name,
            revision=config.model.revision,
            dtype=config.model.dtype,
            device=config.model.device,
            device_map=config.model.device_map,
            quantize=config.model.quantize,
        )
        return Loaded(model)

    def is_here(self, run: Run) -> bool:
        """Whether the base model of a run can be loaded without downloading it, or is a built-in one."""
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        name, revision = self.model_of(run)
        if name in ("default", *ASSETS) or is_there(name):
            return True
        try:
            found = [try_to_load_from_cache(name, file, revision=revision) for file in _WEIGHTS]
        except HFValidationError:
            return False
        return any(isinstance(path, str) for path in found)

    def edits(self, run: Run, model: "EditedModel") -> "list[Intervention]":
        """Load the edits of a run for a loaded model. Raises `InputError` if they belong to another model."""
        from jola.adapters.directory import load_edits, read_adapter
        from jola.remote import RemoteModel, refuse_other_edits

        if isinstance(model, RemoteModel):
            refuse_other_edits(read_adapter(run.adapter_dir))
        return load_edits(run.adapter_dir, model)

    @staticmethod
    def _model_name(run: Run) -> str:
        """Return the name of the base model; for a local model only the run has its path, not the adapter."""
        from jola.adapters.directory import read_adapter

        asked = run.run_config().model.model
        return asked if is_there(asked) else read_adapter(run.adapter_dir).base_model


def refuse_unasked_fetch(run: Run, model: str, revision: str | None) -> None:
    """Raise `InputError` if an imported run needs a model that is not on this computer.

    The author of the run chose the name, and a download would send requests with the user's token to that address.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if "imported" not in run.raw_config() or model in ("default", *ASSETS) or is_there(model):
        return
    says = f"This run was imported and needs the model {model[:200]!r}, which is not on this computer"
    try:
        validate_repo_id(model)
    except HFValidationError:
        raise InputError(f"{says} and cannot be a model on the Hub; the run can only be viewed or deleted.") from None
    if not isinstance(try_to_load_from_cache(model, "config.json", revision=revision), str):
        raise InputError(
            f"{says}. Nothing is downloaded for an imported run; if you trust this name, run `hf download {model}` and "
            "open the run again."
        )
