"""`Method`: its settings, the interventions it attaches to a model, and how they are fitted and saved."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from jola.errors import InputError
from jola.settings import TrainingConfig

if TYPE_CHECKING:  # takes seconds to import, and the command line lists methods without it
    from torch import Tensor
    from transformers import PreTrainedModel

    from jola.data.records import Example
    from jola.edits.intervention import Intervention
    from jola.edits.sites import Geometry, Site
    from jola.model.tracing import TracedModel


@dataclass(frozen=True)
class Stage:
    """A stage of fitting a method. Each stage trains or computes its own interventions."""

    name: str = "train"
    """Name in files."""
    title: str = "Training"
    """Name for display."""
    learning_rate: float | None = None
    """Peak learning rate; None uses that of the settings."""
    penalty: "Callable[[Any, float], Tensor] | None" = None
    """`jola.training.objective.Penalty` that is added to the cross-entropy; None uses that of the settings."""
    computed: bool = False
    """Whether `Method.compute` computes the interventions without gradients."""


LinearShape = tuple[str, int, int]
"""Path, output features and input features of a linear module."""


class Material(Protocol):
    """The data and the model from which `Method.compute` computes interventions."""

    train: "Sequence[Example]"
    validation: Sequence[Any]
    """Validation examples; may be empty."""
    labels: Sequence[str] | None
    """The possible answers of a task with fixed labels, else None."""
    random: Random
    """Random number generator, seeded with the seed of the training."""

    def after_blocks(self, examples: "Sequence[Example]") -> "Tensor":
        """The residual stream after each layer at the last token of the answer of each example.

        Returns:
            (examples, layers, hidden), float32, on the CPU.
        """
        ...

    def validate(self, interventions: "Sequence[Intervention]", **settings: Any) -> "tuple[float, float]":
        """(accuracy, cross-entropy in nats) on the validation examples; both are recorded with `settings`."""
        ...


class Method(ABC):
    """A method for fitting edits of a frozen model to examples.

    A method has no state: it attaches `Intervention`s to a model, whose parameters are trained, saved and loaded. All
    methods share one training loop, one adapter format and one page.
    """

    name: ClassVar[str]
    """Name in ``--method`` and in files."""
    title: ClassVar[str]
    """Name for display."""
    summary: ClassVar[str]
    """One line that says what is trained, and where."""
    formula: ClassVar[str]
    """Formula of an edited unit."""
    source: ClassVar[str]
    """Citation of the paper."""
    settings: ClassVar[type]
    """Dataclass of the settings, from which flags, forms and files are created."""
    full_name: ClassVar[str]
    """Name and citation for a sentence of the model card."""
    tags: ClassVar[tuple[str, ...]] = ("activation-editing",)
    """Tags of the model card."""
    compact: ClassVar[bool] = False
    """Whether adapters contain only the vectors of units that are on; see `jola.adapters.tensors`."""
    own_config: ClassVar[bool] = True
    """Whether ``adapter_config.json`` has our format; else `foreign_config` creates it for another library."""
    open_words: ClassVar[str] = "edits that are on"
    trains: ClassVar[bool] = True
    """Whether anything is trained or computed; otherwise, a run tests the base model and has no adapter."""
    learning_rate: ClassVar[float | None]
    """Default peak learning rate; None if nothing is trained."""
    has_gates: ClassVar[bool] = False
    """Whether settings about gates and λ apply to this method."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Common variants: name → the settings that differ from the defaults."""

    @property
    def unused_settings(self) -> frozenset[str]:
        """Names of the training settings that do not apply to this method."""
        of_gates = (field.name for field in fields(TrainingConfig) if field.metadata["gates"])
        return frozenset() if self.has_gates else frozenset(of_gates)

    def check(self, settings: Any, training: TrainingConfig) -> None:
        """Raise `InputError` for incompatible settings; types and bounds have been checked before."""
        return None

    @abstractmethod
    def attach(self, traced: "TracedModel", settings: Any) -> "Sequence[Intervention]":
        """Create interventions for a loaded model, on the CPU; `Intervention.reset` initializes them.

        Raises:
            InputError: The model does not support them.
        """

    @abstractmethod
    def shapes(self, settings: Any, geometry: "Geometry") -> "dict[str, tuple[int, ...]] | None":
        """Names and shapes of the tensors in an adapter file; None if they do not follow from the geometry."""

    @abstractmethod
    def trainable(self, settings: Any, base: "PreTrainedModel", geometry: "Geometry") -> dict[str, int]:
        """Number of trainable parameters in each stage, by its name.

        Args:
            base: A model on the meta device, whose modules may be replaced.

        Raises:
            InputError: As for `attach`.
        """

    def count(self, settings: Any, geometry: "Geometry", linear: "Sequence[LinearShape]") -> int | None:
        """Count the parameters of the first stage without PyTorch or the model, to estimate the memory of a training.

        Args:
            linear: The weight matrices in the layers; empty if they are not known.

        Returns:
            The same number as `trainable`; None if it cannot be counted.

        Raises:
            InputError: The settings do not fit the geometry.
        """
        return None

    def stages(self, settings: Any) -> tuple[Stage, ...]:
        """The stages of fitting, in order; `attach` creates the interventions of the first stage."""
        return (Stage(),)

    def next_settings(self, settings: Any, interventions: "Sequence[Intervention]") -> Any:
        """Settings for the second of the `stages` from the interventions fitted by the first.

        The second stage is the first of the `stages` of these settings.
        """
        raise NotImplementedError

    def compute(self, settings: Any, geometry: "Geometry", material: Material) -> "tuple[Any, Mapping[str, Tensor]]":
        """Fit a computed stage: return the settings with all choices made, and the `tensors`.

        Raises:
            InputError: The examples are not sufficient.
        """
        raise NotImplementedError

    def prompt_note(self, settings: Any, longest: int) -> str | None:
        """A warning about these settings for prompts of at most `longest` tokens, in one sentence, or None."""
        return None

    def sites(self, settings: Any) -> "list[Site]":
        """Sites of the edited activations, in the order of a pass; empty if weights are edited."""
        return []

    def parameter_groups(
        self, interventions: "Sequence[Intervention]", weight_decay: float, gate_learning_rate: float
    ) -> list[dict[str, Any]]:
        """Parameter groups for the optimizer; groups without ``lr`` use the learning rate of the settings."""
        parameters = [p for i in interventions for p in i.parameters() if p.requires_grad]
        return [{"params": parameters, "weight_decay": weight_decay}]

    def tensors(self, interventions: "Sequence[Intervention]") -> "dict[str, Tensor]":
        """The tensors of an adapter file by name: the parameters, or other tensors from which `load` restores them."""
        return {f"{i.site}.{name}": tensor for i in interventions for name, tensor in i.named_parameters()}

    def load(self, interventions: "Sequence[Intervention]", tensors: "Mapping[str, Tensor]") -> None:
        """Copy the tensors of an adapter file, whose names and shapes fit, into interventions.

        Raises:
            InputError: Their values are not valid for these interventions.
        """
        for name, own in self.tensors(interventions).items():
            own.data.copy_(tensors[name])

    def rebuild(self, settings: Any, geometry: "Geometry", tensors: "Mapping[str, Tensor]") -> "Sequence[Intervention]":
        """Create the interventions of an adapter file on the CPU, for inspection without the model."""
        raise NotImplementedError

    def foreign_config(
        self, settings: Any, interventions: "Sequence[Intervention]", base: str
    ) -> dict[str, Any] | None:
        """The ``adapter_config.json`` for a library that reads the tensors unchanged; None if no library does.

        Args:
            base: Name of the base model.
        """
        return None

    def export_refusal(self, form: str) -> str | None:
        """Why adapters of this method cannot be exported in a form, as one sentence; None if they can.

        Args:
            form: A subcommand of ``jola export``: 'adapter', 'merged', 'ia3', 'standalone', 'gguf' or 'edits'.
        """
        return None

    def refuse_export(self, form: str) -> None:
        """Raise an `InputError` with the sentence of `export_refusal`, if any."""
        if sentence := self.export_refusal(form):
            raise InputError(sentence)


class ActivationMethod(Method):
    """A method whose interventions follow from its settings and the geometry of the model."""

    @abstractmethod
    def build(self, settings: Any, geometry: "Geometry") -> "Sequence[Intervention]":
        """Create interventions on the CPU."""

    def attach(self, traced: "TracedModel", settings: Any) -> "Sequence[Intervention]":
        """Return the interventions of `build`; the model is not changed."""
        return self.build(settings, traced.geometry)

    def trainable(self, settings: Any, base: "PreTrainedModel", geometry: "Geometry") -> dict[str, int]:
        """Number of trainable parameters of the interventions of `build`."""
        return {"train": sum(i.trainable_count() for i in self.build(settings, geometry))}

    def shapes(self, settings: Any, geometry: "Geometry") -> "dict[str, tuple[int, ...]]":
        """Shapes of the parameters of `build`."""
        return {name: tuple(t.shape) for name, t in self.tensors(self.build(settings, geometry)).items()}

    def rebuild(self, settings: Any, geometry: "Geometry", tensors: "Mapping[str, Tensor]") -> "Sequence[Intervention]":
        """Return the interventions of `build` with the tensors loaded."""
        interventions = self.build(settings, geometry)
        self.load(interventions, tensors)
        return interventions


class HiddenMethod(ActivationMethod):
    """A method that trains functions of hidden states (`jola.edits.hidden`), which can only be saved as an adapter."""

    why_not_exported: ClassVar[str]
    """Why these edits cannot be exported in other forms: the first part of a sentence, up to the semicolon."""

    def trainable(self, settings: Any, base: "PreTrainedModel", geometry: "Geometry") -> dict[str, int]:
        """Number of trainable parameters of the interventions of `build`, without allocating them."""
        from jola.edits.hidden import without_memory

        with without_memory():
            return super().trainable(settings, base, geometry)

    def shapes(self, settings: Any, geometry: "Geometry") -> "dict[str, tuple[int, ...]]":
        """Shapes of the tensors of `build`, without allocating them."""
        from jola.edits.hidden import without_memory

        with without_memory():
            return super().shapes(settings, geometry)

    def export_refusal(self, form: str) -> str | None:
        """Refuse all forms except the adapter."""
        return None if form == "adapter" else f"{self.why_not_exported}; export the adapter."
