"""`WeightMethod`: base class of the methods that change weights by peft layers in the frozen model."""

import dataclasses
import re
import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from jola.errors import InputError
from jola.methods.base import LinearShape, Method
from jola.settings import TrainingConfig

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from jola.edits.intervention import Intervention
    from jola.edits.sites import Geometry
    from jola.edits.weights import WeightEdits
    from jola.model.tracing import TracedModel

_MODULE_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


class WeightMethod(Method):
    """A method whose settings have ``target_modules``: names of modules, separated by commas, or `every`."""

    every: ClassVar[str]
    """Value of ``target_modules`` that selects the default modules."""
    every_words: ClassVar[str]
    """Description of these modules for an error message about a model without them."""
    own_config = False

    @abstractmethod
    def peft_config(self, settings: Any) -> Any:
        """The peft configuration for these settings."""

    @abstractmethod
    def edits_class(self) -> "type[WeightEdits]":
        """The class of the interventions of this method."""

    def targets(self, settings: Any) -> list[str] | None:
        """Names of the modules; None means `every`."""
        text = settings.target_modules.strip()
        return None if text == self.every else [name.strip() for name in text.split(",")]

    def check(self, settings: Any, training: TrainingConfig) -> None:
        """Raise `InputError` for names that are not valid names of modules."""
        for name in self.targets(settings) or ():
            if not _MODULE_NAME.fullmatch(name):
                raise InputError(
                    f"--target-modules is {settings.target_modules!r}; write '{self.every}' or names of modules such "
                    "as 'q_proj,v_proj'."
                )

    def attach(self, traced: "TracedModel", settings: Any) -> "Sequence[WeightEdits]":
        """Add inactive peft layers to the model, and return one intervention that applies them."""
        with traced.lock:
            try:
                return [self._inject(traced.base, traced.geometry, settings)]
            finally:
                traced.wrap()

    def trainable(self, settings: Any, base: "PreTrainedModel", geometry: "Geometry") -> dict[str, int]:
        """Number of parameters of the peft layers."""
        edits = self._inject(base, geometry, settings)
        edits.detach_from(base)
        return {"train": edits.trainable_count()}

    def _inject(self, base: "PreTrainedModel", geometry: "Geometry", settings: Any) -> "WeightEdits":
        try:
            with warnings.catch_warnings():
                # peft warns when it detects how the weights of GPT-2 are stored.
                warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
                return self.edits_class().inject(base, geometry.num_layers, self.peft_config(settings))
        except InputError:
            raise
        except ValueError as error:  # peft found nothing to change
            lacks = f"module called {settings.target_modules}" if self.targets(settings) else self.every_words
            raise InputError(
                f"This {geometry.architecture} model has no {lacks}; choose others with --target-modules."
            ) from error

    def shapes(self, settings: Any, geometry: "Geometry") -> None:
        """None, because the geometry does not contain the widths of linear modules."""

    def rebuild(self, settings: Any, geometry: "Geometry", tensors: "Mapping[str, Tensor]") -> "Sequence[WeightEdits]":
        """Create the edits without a model, for inspection."""
        return [self.edits_class().of_tensors(tensors, geometry.num_layers)]

    def tensors(self, interventions: "Sequence[Intervention]") -> "dict[str, Tensor]":
        """The parameters by their names in peft."""
        return {name: t for i in interventions if isinstance(i, self.edits_class()) for name, t in i.tensors().items()}

    def foreign_config(self, settings: Any, interventions: "Sequence[Intervention]", base: str) -> dict[str, Any]:
        """The ``adapter_config.json`` for peft."""
        edits = [i for i in interventions if isinstance(i, self.edits_class())]
        found = {path.rpartition(".")[2] for i in edits for path in i.path_of.values()}
        names = self.targets(settings) or sorted(found)
        config = self.peft_config(dataclasses.replace(settings, target_modules=",".join(names)))
        config.base_model_name_or_path, config.inference_mode = base, True
        return {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}

    def export_refusal(self, form: str) -> str | None:
        """Refuse forms that contain only edits of activations."""
        holds = {
            "ia3": "an IA3 adapter contains only scales of activations",
            "standalone": "the Python script contains only scales and offsets of activations",
            "edits": "the table lists gates and vectors of activations",
        }.get(form)
        return (
            holds and f"{self.title} changes weights, but {holds}; export the adapter, which peft loads, or merge it."
        )


def named_like(names: Sequence[str], linear: Sequence[LinearShape]) -> list[LinearShape]:
    """Return the linear modules that peft matches with these names: the whole path, or the end of it."""
    return [shape for shape in linear if any(shape[0] == name or shape[0].endswith(f".{name}") for name in names)]
