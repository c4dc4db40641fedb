"""`HeadScores` and `HeadSet`: what a selector thinks of every head, and the heads that it chooses.

Both are values: they never change, compare by content, and say where they come from. Heads are (layer, head) pairs
counted from 0; where heads of equal score compete, the one of the lower layer, then of the lower number, comes first.
"""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from jola.config import EditConfig, parse_heads
from jola.data.records import Example
from jola.edits.masks import HeadMask
from jola.errors import InputError
from jola.system.files import disk_errors, json_bytes, replace_file

if TYPE_CHECKING:
    from jola.model.edited import EditedModel

FORMAT = 1
_SAMPLED = 64  # numbers of each weight that go into the hash of a model
_MAX_HEADS = 1 << 20  # of a file that somebody else may have written


@dataclass(frozen=True)
class Cost:
    """What something took: optimiser steps, examples passed forward and backward, and time.

    `seconds` are those of a clock on the wall, `processor_seconds` those of all processor cores together, which other
    programs on the machine do not lengthen; the work of a GPU is in the former alone.
    """

    steps: int = 0
    forward: int = 0
    backward: int = 0
    seconds: float = 0.0
    processor_seconds: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))


@dataclass(frozen=True)
class Provenance:
    """Where scores come from: the method and its settings, hashes of the model and of the examples, and the seed."""

    method: str
    model: str = ""
    data: str = ""
    seed: int | None = None
    version: str = ""
    settings: str = ""
    """JSON of the settings that differ from one selection to another, with the K that the method was told."""

    @classmethod
    def of(
        cls, method: str, model: "EditedModel", examples: Sequence[Example], seed: int, settings: Mapping[str, Any]
    ) -> "Provenance":
        """The provenance of a selection that is about to be made."""
        try:
            own = version("jola-workbench")
        except PackageNotFoundError:
            own = ""
        written = json.dumps(dict(settings), sort_keys=True, default=str)
        return cls(method, model_hash(model), fingerprint(examples), seed, own, written)


class HeadScores:
    """A score for every head, finite, higher is better.

    Args:
        values: (layers, heads).
        provenance: Where they come from.
        cost: What it took to make them.

    Raises:
        ValueError: The scores are not a matrix of finite numbers.
    """

    def __init__(self, values: ArrayLike, provenance: Provenance, cost: Cost | None = None) -> None:
        array = np.array(values, dtype=np.float64)
        if array.ndim != 2 or array.size == 0 or not np.isfinite(array).all():
            raise ValueError(f"Scores must be finite, of shape (layers, heads); these have shape {array.shape}.")
        array.flags.writeable = False
        self.values: NDArray[np.float64] = array
        """(layers, heads), read-only."""
        self.provenance = provenance
        self.cost = cost or Cost()

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, HeadScores)
            and np.array_equal(self.values, other.values)
            and self.provenance == other.provenance
        )

    def __hash__(self) -> int:
        return hash((self.values.tobytes(), self.provenance))

    def __repr__(self) -> str:
        return f"<HeadScores {self.shape[0]} × {self.shape[1]} by {self.provenance.method}>"

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, heads)."""
        return self.values.shape[0], self.values.shape[1]

    def ranking(self) -> list[tuple[int, int]]:
        """All heads, the best first."""
        order = np.argsort(-self.values.ravel(), kind="stable")
        return [divmod(int(index), self.shape[1]) for index in order]

    def top(self, k: int) -> "HeadSet":
        """The ``k`` heads with the highest scores. `InputError` when there are not so many."""
        total = self.values.size
        if not 0 <= k <= total:
            raise InputError(f"{k} heads are to be chosen, and the model has {total}; choose between 0 and {total}.")
        return HeadSet(*self.shape, self.ranking()[:k], self.provenance)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "format": FORMAT,
            "scores": self.values.tolist(),
            "provenance": dataclasses.asdict(self.provenance),
            "cost": dataclasses.asdict(self.cost),
        }

    def save(self, path: Path | str) -> None:
        """Write the scores as a JSON file. `InputError` when it cannot be written there."""
        _save(Path(path), self.to_dict())

    @classmethod
    def from_dict(cls, content: Any) -> "HeadScores":
        """The inverse of `to_dict`. `InputError` when it is something else."""
        try:
            _check_format(content)
            return cls(content["scores"], Provenance(**content["provenance"]), Cost(**content["cost"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"These are no scores of heads ({error}).") from error


@dataclass(frozen=True, init=False)
class HeadSet(Collection[tuple[int, int]]):
    """Some heads of a model; equal sets have the same shape and the same heads, whoever chose them.

    ``a | b``, ``a & b``, ``a - b``, ``a ^ b`` and ``~a`` are the sets one expects, without provenance.

    Raises:
        InputError: A head that the shape does not have; or, of operations, sets of different models.
    """

    layers: int
    heads: int
    pairs: tuple[tuple[int, int], ...]
    """In ascending order."""
    provenance: Provenance | None = dataclasses.field(compare=False)

    def __init__(
        self, layers: int, heads: int, pairs: Iterable[tuple[int, int]], provenance: Provenance | None = None
    ) -> None:
        chosen = sorted({(int(layer), int(head)) for layer, head in pairs})
        for layer, head in chosen:
            if not (0 <= layer < layers and 0 <= head < heads):
                raise InputError(f"There is no head {layer}:{head} among {layers} layers of {heads} heads.")
        for name, value in (("layers", layers), ("heads", heads), ("pairs", tuple(chosen)), ("provenance", provenance)):
            object.__setattr__(self, name, value)

    @classmethod
    def from_array(cls, chosen: ArrayLike, provenance: Provenance | None = None) -> "HeadSet":
        """The heads at which an array (layers, heads) is true."""
        flags = np.asarray(chosen, dtype=bool)
        layers, heads = flags.shape
        return cls(layers, heads, [(int(a), int(b)) for a, b in np.argwhere(flags)], provenance)

    @classmethod
    def from_text(cls, text: str, layers: int, heads: int) -> "HeadSet":
        """The heads that ``--heads`` names: 'all' or pairs such as '3:0,3:7'."""
        pairs = parse_heads(text, layers, heads)
        return cls(layers, heads, [(a, b) for a in range(layers) for b in range(heads)] if pairs is None else pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.pairs)

    def __contains__(self, head: object) -> bool:
        return head in self.pairs

    def __repr__(self) -> str:
        by = f" by {self.provenance.method}" if self.provenance else ""
        return f"<HeadSet of {len(self)} among {self.layers} × {self.heads}{by}>"

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, heads)."""
        return self.layers, self.heads

    def array(self) -> NDArray[np.bool_]:
        """(layers, heads), true at the chosen heads."""
        flags = np.zeros(self.shape, dtype=bool)
        for layer, head in self.pairs:
            flags[layer, head] = True
        return flags

    def _other(self, other: "HeadSet") -> set[tuple[int, int]]:
        if self.shape != other.shape:
            raise InputError(f"Heads of models of {self.shape} and {other.shape} (layers, heads) do not go together.")
        return set(other.pairs)

    def __and__(self, other: "HeadSet") -> "HeadSet":
        return HeadSet(*self.shape, set(self.pairs) & self._other(other))

    def __or__(self, other: "HeadSet") -> "HeadSet":
        return HeadSet(*self.shape, set(self.pairs) | self._other(other))

    def __sub__(self, other: "HeadSet") -> "HeadSet":
        return HeadSet(*self.shape, set(self.pairs) - self._other(other))

    def __xor__(self, other: "HeadSet") -> "HeadSet":
        return HeadSet(*self.shape, set(self.pairs) ^ self._other(other))

    def __invert__(self) -> "HeadSet":
        return HeadSet.from_array(~self.array())

    def to_text(self) -> str:
        """As ``--heads`` and `EditConfig.heads` take it. `InputError` for an empty set, which they cannot say."""
        if not self.pairs:
            raise InputError("No head is chosen; choose at least one.")
        return "all" if len(self) == self.layers * self.heads else ",".join(f"{a}:{b}" for a, b in self.pairs)

    def edit_config(self, edits: EditConfig | None = None) -> EditConfig:
        """The settings `edits` (or the defaults), with these heads as the only ones that may be edited."""
        return dataclasses.replace(edits or EditConfig(), sites="heads", layers="all", heads=self.to_text())

    def mask(self) -> HeadMask:
        """Both halves of the edits of these heads on, all others off."""
        factors = self.array().astype(np.float64)
        return HeadMask(factors, factors)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "format": FORMAT,
            "layers": self.layers,
            "heads": self.heads,
            "chosen": [list(pair) for pair in self.pairs],
            "provenance": dataclasses.asdict(self.provenance) if self.provenance else None,
        }

    @classmethod
    def from_dict(cls, content: Any) -> "HeadSet":
        """The inverse of `to_dict`. `InputError` when it is something else."""
        try:
            _check_format(content)
            layers, heads = content["layers"], content["heads"]
            for number in (layers, heads, *(n for pair in content["chosen"] for n in pair)):
                if type(number) is not int:
                    raise ValueError(f"{number!r} is no number of a layer or a head")
            if not (layers > 0 and heads > 0 and layers * heads <= _MAX_HEADS):
                raise ValueError(f"{layers} layers of {heads} heads")
            given = content["provenance"]
            pairs = [(layer, head) for layer, head in content["chosen"]]
            return cls(layers, heads, pairs, Provenance(**given) if given is not None else None)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"This is no set of heads ({error}).") from error

    def save(self, path: Path | str) -> None:
        """Write the set as a JSON file. `InputError` when it cannot be written there."""
        _save(Path(path), self.to_dict())

    @classmethod
    def load(cls, path: Path | str) -> "HeadSet":
        """Read what `save` wrote. `InputError` when there is no such file or it holds something else."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"Cannot read the heads in {path} ({error}).") from error
        return cls.from_dict(content)


def _check_format(content: Any) -> None:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"format {FORMAT} is needed")


def model_hash(model: "EditedModel") -> str:
    """A hash of the frozen model: of names, shapes and evenly spread numbers of all weights.

    Numbers are rounded to bfloat16, so that one model loaded in float32 and in bfloat16 is one.
    """
    digest = hashlib.sha256()
    for name, weight in model.base.named_parameters():
        flat = weight.detach().flatten()
        places = torch.linspace(0, flat.numel() - 1, min(_SAMPLED, flat.numel()), dtype=torch.float64).round().long()
        numbers = flat[places.to(flat.device)].to(torch.bfloat16).view(torch.int16).cpu().numpy()
        digest.update(f"{name} {tuple(weight.shape)}".encode() + numbers.tobytes())
    return digest.hexdigest()[:32]


def _save(path: Path, content: dict[str, Any]) -> None:
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, json_bytes(content))
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose the name of a file.") from error


def fingerprint(examples: Sequence[Example]) -> str:
    """A hash of examples and their order."""
    content = json.dumps([dataclasses.asdict(example) for example in examples], ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", errors="replace")).hexdigest()[:32]
