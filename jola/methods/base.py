"""What a method is: its settings, the interventions it attaches to a model, and how they are fitted and saved."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from jola.errors import InputError
from jola.settings import TrainingConfig

if TYPE_CHECKING:  # seconds to import, and the command line lists methods without it
    from torch import Tensor
    from transformers import PreTrainedModel

    from jola.data.records import Example
    from jola.edits.intervention import Intervention
    from jola.edits.sites import Geometry, Site
    from jola.model.tracing import TracedModel


@dataclass(frozen=True)
class Stage:
    """A part of fitting a method, which has interventions of its own: they are trained, or computed."""

    name: str = "train"
    """In files."""
    title: str = "Training"
    """As people read it."""
    learning_rate: float | None = None
    """Peak rate; None is that of the settings."""
    penalty: "Callable[[Any, float], Tensor] | None" = None
    """Added to the cross-entropy, a `jola.training.objective.Penalty`; None is that of the settings."""
    computed: bool = False
    """Whether `Method.compute` makes the interventions, without gradients."""


class Material(Protocol):
    """What a method computes its interventions from, see `Method.compute`."""

    train: "Sequence[Example]"
    validation: Sequence[Any]
    """Empty without validation examples."""
    labels: Sequence[str] | None
    """Answers between which the examples choose, if they do."""
    random: Random
    """Source of random numbers, seeded with the seed of the training."""

    def after_blocks(self, examples: "Sequence[Example]") -> "Tensor":
        """The residual stream after each layer at the last token of the answer of each example.

        Returns:
            (examples, layers, hidden), float32, on the CPU.
        """
        ...

    def validate(self, interventions: "Sequence[Intervention]", **settings: Any) -> "tuple[float, float]":
        """(accuracy, cross-entropy in nats) on the validation examples; the run records them with `settings`."""
        ...


class Method(ABC):
    """A way to tune a frozen model on examples.

    A method has no state: what it attaches to one model are `Intervention`s, whose parameters are trained, saved and
    loaded. One training loop, one adapter format and one page serve all methods.
    """

    name: ClassVar[str]
    """As in ``--method`` and in files."""
    title: ClassVar[str]
    """As people write it."""
    summary: ClassVar[str]
    """One line: what is trained, and where."""
    formula: ClassVar[str]
    """What an edited unit computes."""
    source: ClassVar[str]
    """The paper."""
    settings: ClassVar[type]
    """Dataclass of its settings; flags, form and file are made of it."""
    full_name: ClassVar[str]
    """Name and source, as a sentence of a model card has it."""
    tags: ClassVar[tuple[str, ...]] = ("activation-editing",)
    """Of the model card."""
    compact: ClassVar[bool] = False
    """Whether adapters hold only the vectors of units that are on, see `jola.adapters.tensors`."""
    own_config: ClassVar[bool] = True
    """Whether ``adapter_config.json`` is ours; else `foreign_config` makes it for another library."""
    open_words: ClassVar[str] = "edits that are on"
    trains: ClassVar[bool] = True
    """Whether anything is trained; a run without training tests the base model and has no adapter."""
    learning_rate: ClassVar[float | None]
    """Peak rate unless another is asked for; None where nothing is trained."""
    has_gates: ClassVar[bool] = False
    """Whether settings about gates and λ concern it."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Other settings in use: a few words that name them → the settings that differ from the defaults."""

    @property
    def unused_settings(self) -> frozenset[str]:
        """Names of the settings of training that do not concern this method."""
        of_gates = (field.name for field in fields(TrainingConfig) if field.metadata["gates"])
        return frozenset() if self.has_gates else frozenset(of_gates)

    def check(self, settings: Any, training: TrainingConfig) -> None:
        """Refuse settings that do not go together with an `InputError`; types and bounds are checked already."""
        return None

    @abstractmethod
    def attach(self, traced: "TracedModel", settings: Any) -> "Sequence[Intervention]":
        """Fresh interventions for a loaded model, on the processor; `Intervention.reset` gives them their first values.

        Raises:
            InputError: The model cannot take them.
        """

    @abstractmethod
    def shapes(self, settings: Any, geometry: "Geometry") -> "dict[str, tuple[int, ...]] | None":
        """Names and shapes of the tensors in an adapter file, by the model's geometry; None when it does not tell."""

    @abstractmethod
    def trainable(self, settings: Any, base: "PreTrainedModel", geometry: "Geometry") -> dict[str, int]:
        """How many numbers train in each stage, by its name.

        Args:
            base: A model on the meta device, whose modules may be replaced.

        Raises:
            InputError: As `attach`.
        """

    def stages(self, settings: Any) -> tuple[Stage, ...]:
        """How interventions with these settings are fitted, in order; `attach` makes those of the first stage."""
        return (Stage(),)

    def next_settings(self, settings: Any, interventions: "Sequence[Intervention]") -> Any:
        """Settings of the second of the `stages`, which becomes the first, from what the first one has fitted."""
        raise NotImplementedError

    def compute(self, settings: Any, geometry: "Geometry", material: Material) -> "tuple[Any, Mapping[str, Tensor]]":
        """For a stage that is computed: the settings with all choices made, and the `tensors`.

        Raises:
            InputError: The examples do not allow it.
        """
        raise NotImplementedError

    def prompt_note(self, settings: Any, longest: int) -> str | None:
        """What somebody should know of these settings on prompts of at most `longest` tokens, as one sentence."""
        return None

    def sites(self, settings: Any) -> "list[Site]":
        """Sites of activations that are edited, in the order of a pass; none where weights are."""
        return []

    def parameter_groups(
        self, interventions: "Sequence[Intervention]", weight_decay: float, gate_learning_rate: float
    ) -> list[dict[str, Any]]:
        """Groups for the optimiser; those without ``lr`` have the rate of the settings."""
        parameters = [p for i in interventions for p in i.parameters() if p.requires_grad]
        return [{"params": parameters, "weight_decay": weight_decay}]

    def tensors(self, interventions: "Sequence[Intervention]") -> "dict[str, Tensor]":
        """The numbers in an adapter file, by their names there: the parameters themselves, or what `load` takes."""
        return {f"{i.site}.{name}": tensor for i in interventions for name, tensor in i.named_parameters()}

    def load(self, interventions: "Sequence[Intervention]", tensors: "Mapping[str, Tensor]") -> None:
        """Put the numbers of an adapter file, whose names and shapes fit, into interventions.

        Raises:
            InputError: They are not those of such interventions.
        """
        for name, own in self.tensors(interventions).items():
            own.data.copy_(tensors[name])

    def rebuild(self, settings: Any, geometry: "Geometry", tensors: "Mapping[str, Tensor]") -> "Sequence[Intervention]":
        """The interventions in an adapter file, to look at without the model; on the processor."""
        raise NotImplementedError

    def foreign_config(
        self, settings: Any, interventions: "Sequence[Intervention]", base: str
    ) -> dict[str, Any] | None:
        """The ``adapter_config.json`` of another library that reads the tensors as they are; None where there is none.

        Args:
            base: Name of the base model.
        """
        return None

    def export_refusal(self, form: str) -> str | None:
        """Why adapters of this method have no export of this form, as one sentence; None where they have.

        Args:
            form: A subcommand of ``jola export``: 'adapter', 'merged', 'ia3', 'standalone', 'gguf' or 'edits'.
        """
        return None

    def refuse_export(self, form: str) -> None:
        """Raise the sentence of `export_refusal` as an `InputError`."""
        if sentence := self.export_refusal(form):
            raise InputError(sentence)


class ActivationMethod(Method):
    """A method whose interventions follow from its settings and the geometry of the model."""

    @abstractmethod
    def build(self, settings: Any, geometry: "Geometry") -> "Sequence[Intervention]":
        """Fresh interventions, on the processor."""

    def attach(self, traced: "TracedModel", settings: Any) -> "Sequence[Intervention]":
        """Those of `build`: nothing in the model changes."""
        return self.build(settings, traced.geometry)

    def trainable(self, settings: Any, base: "PreTrainedModel", geometry: "Geometry") -> dict[str, int]:
        """Those of `build`."""
        return {"train": sum(i.trainable_count() for i in self.build(settings, geometry))}

    def shapes(self, settings: Any, geometry: "Geometry") -> "dict[str, tuple[int, ...]]":
        """Shapes of the parameters of `build`."""
        return {name: tuple(t.shape) for name, t in self.tensors(self.build(settings, geometry)).items()}

    def rebuild(self, settings: Any, geometry: "Geometry", tensors: "Mapping[str, Tensor]") -> "Sequence[Intervention]":
        """Those of `build`, with the tensors in them."""
        interventions = self.build(settings, geometry)
        self.load(interventions, tensors)
        return interventions


class HiddenMethod(ActivationMethod):
    """A method that trains functions of hidden states (`jola.edits.hidden`), which only its adapter holds."""

    why_not_exported: ClassVar[str]
    """Why no other form holds these edits, up to the semicolon."""

    def trainable(self, settings: Any, base: "PreTrainedModel", geometry: "Geometry") -> dict[str, int]:
        """Those of `build`, without memory for them."""
        from jola.edits.hidden import without_memory

        with without_memory():
            return super().trainable(settings, base, geometry)

    def shapes(self, settings: Any, geometry: "Geometry") -> "dict[str, tuple[int, ...]]":
        """Those of `build`, without memory for them."""
        from jola.edits.hidden import without_memory

        with without_memory():
            return super().shapes(settings, geometry)

    def export_refusal(self, form: str) -> str | None:
        """Refuse every form but the adapter."""
        return None if form == "adapter" else f"{self.why_not_exported}; export the adapter."
