"""`HeadScores` and `HeadSet`: the scores that a selector gives to all heads, and the heads that it chooses.

Both are immutable, compare by content, and record their provenance. Heads are (layer, head) pairs counted from 0. Ties
are broken in favor of the lower layer, then of the lower head index.
"""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from jola.system.versions import installed_versions

if TYPE_CHECKING:
    from jola.model.edited import EditedModel

FORMAT = 1
_SAMPLED = 64  # entries of each weight that go into the hash of a model
_MAX_HEADS = 1 << 20  # limit for files, which may be untrusted


@dataclass(frozen=True)
class Cost:
    """The cost of a computation: optimizer steps, examples in forward and backward passes, and time.

    `seconds` is wall-clock time. `processor_seconds` is CPU time summed over cores, which is not affected by other
    programs but does not include GPU work.
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
    """The origin of scores: the method and its settings, hashes of the model and of the examples, and the seed."""

    method: str
    model: str = ""
    data: str = ""
    seed: int | None = None
    version: str = ""
    settings: str = ""
    """JSON of the settings of the selection, including the K given to the method."""

    @classmethod
    def of(
        cls, method: str, model: "EditedModel", examples: Sequence[Example], seed: int, settings: Mapping[str, Any]
    ) -> "Provenance":
        """Return the provenance of a new selection."""
        own = installed_versions(["jola-workbench"])["jola-workbench"] or ""
        written = json.dumps(dict(settings), sort_keys=True, default=str)
        return cls(method, model_hash(model), fingerprint(examples), seed, own, written)


class HeadScores:
    """A finite score for every head; higher is better.

    Args:
        values: (layers, heads).
        provenance: Origin of the scores.
        cost: Cost of computing them.

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
        """Return all heads, best first."""
        order = np.argsort(-self.values.ravel(), kind="stable")
        return [divmod(int(index), self.shape[1]) for index in order]

    def top(self, k: int) -> "HeadSet":
        """Return the ``k`` heads with the highest scores. Raises `InputError` if the model has fewer."""
        total = self.values.size
        if not 0 <= k <= total:
            raise InputError(f"k is {k}, but the model has {total} heads; choose a k from 0 to {total}.")
        return HeadSet(*self.shape, self.ranking()[:k], self.provenance)

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary of JSON values."""
        return {
            "format": FORMAT,
            "scores": self.values.tolist(),
            "provenance": dataclasses.asdict(self.provenance),
            "cost": dataclasses.asdict(self.cost),
        }

    def save(self, path: Path | str) -> None:
        """Write the scores to a JSON file. Raises `InputError` if it cannot be written."""
        _save(Path(path), self.to_dict())

    @classmethod
    def from_dict(cls, content: Any) -> "HeadScores":
        """Create scores from the result of `to_dict`. Raises `InputError` for anything else."""
        try:
            _check_format(content)
            cost = Cost(**content["cost"])
            if any(isinstance(number, bool) or not isinstance(number, int | float) for number in vars(cost).values()):
                raise ValueError("the cost is not in numbers")
            return cls(content["scores"], _provenance(content["provenance"]), cost)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"This is not a valid file of head scores ({error}).") from error


@dataclass(frozen=True, init=False)
class HeadSet(Collection[tuple[int, int]]):
    """A set of heads of a model. Sets are equal if their shapes and heads are equal, whatever their provenance.

    ``a | b``, ``a & b``, ``a - b``, ``a ^ b`` and ``~a`` are the usual set operations; the result has no provenance.

    Raises:
        InputError: A head does not exist in this shape, or an operation combines sets of different shapes.
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
                raise InputError(
                    f"There is no head {layer}:{head} in {layers} layers of {heads} heads, both counted from 0."
                )
        for name, value in (("layers", layers), ("heads", heads), ("pairs", tuple(chosen)), ("provenance", provenance)):
            object.__setattr__(self, name, value)

    @classmethod
    def from_array(cls, chosen: ArrayLike, provenance: Provenance | None = None) -> "HeadSet":
        """Create the set of heads for which an array (layers, heads) is true."""
        flags = np.asarray(chosen, dtype=bool)
        layers, heads = flags.shape
        return cls(layers, heads, [(int(a), int(b)) for a, b in np.argwhere(flags)], provenance)

    @classmethod
    def from_text(cls, text: str, layers: int, heads: int) -> "HeadSet":
        """Create the set of heads from the value of ``--heads``: 'all' or pairs such as '3:0,3:7'."""
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
        """Return a (layers, heads) array that is true at the chosen heads."""
        flags = np.zeros(self.shape, dtype=bool)
        for layer, head in self.pairs:
            flags[layer, head] = True
        return flags

    def _other(self, other: "HeadSet") -> set[tuple[int, int]]:
        if self.shape != other.shape:
            raise InputError(
                f"Sets of heads of shapes {self.shape} and {other.shape} (layers, heads) cannot be combined."
            )
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
        """Return the set in the format of ``--heads`` and `EditConfig.heads`. Raises `InputError` if it is empty."""
        if not self.pairs:
            raise InputError("No head is chosen; choose at least one.")
        return "all" if len(self) == self.layers * self.heads else ",".join(f"{a}:{b}" for a, b in self.pairs)

    def edit_config(self, edits: EditConfig | None = None) -> EditConfig:
        """Return the settings `edits` (or the defaults), restricted to these heads."""
        return dataclasses.replace(edits or EditConfig(), sites="heads", layers="all", heads=self.to_text())

    def mask(self) -> HeadMask:
        """Return a mask with both halves of these heads on and all others off."""
        factors = self.array().astype(np.float64)
        return HeadMask(factors, factors)

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary of JSON values."""
        return {
            "format": FORMAT,
            "layers": self.layers,
            "heads": self.heads,
            "chosen": [list(pair) for pair in self.pairs],
            "provenance": dataclasses.asdict(self.provenance) if self.provenance else None,
        }

    @classmethod
    def from_dict(cls, content: Any) -> "HeadSet":
        """Create a set from the result of `to_dict`. Raises `InputError` for anything else."""
        try:
            _check_format(content)
            layers, heads = content["layers"], content["heads"]
            for number in (layers, heads, *(n for pair in content["chosen"] for n in pair)):
                if type(number) is not int:
                    raise ValueError(f"{number!r} is not a layer or head index")
            if not (layers > 0 and heads > 0 and layers * heads <= _MAX_HEADS):
                raise ValueError(f"{layers} layers of {heads} heads")
            given = content["provenance"]
            pairs = [(layer, head) for layer, head in content["chosen"]]
            return cls(layers, heads, pairs, _provenance(given) if given is not None else None)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"This is not a valid set of heads ({error}).") from error

    def save(self, path: Path | str) -> None:
        """Write the set to a JSON file. Raises `InputError` if it cannot be written."""
        _save(Path(path), self.to_dict())

    @classmethod
    def load(cls, path: Path | str) -> "HeadSet":
        """Read a file written by `save`. Raises `InputError` if it is missing or invalid."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"Cannot read the heads in {path} ({error}).") from error
        return cls.from_dict(content)


def _provenance(content: Mapping[str, Any]) -> Provenance:
    """Create a provenance from JSON values. Raises `TypeError` or `ValueError` for anything else."""
    found = Provenance(**content)
    if any(type(value) is not str for name, value in vars(found).items() if name != "seed"):
        raise ValueError("the provenance is not in texts")
    if found.seed is not None and type(found.seed) is not int:
        raise ValueError(f"{found.seed!r} is not a seed")
    return found


def _check_format(content: Any) -> None:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"the format must be {FORMAT}")


def model_hash(model: "EditedModel") -> str:
    """Return a hash of the frozen model, from the names, shapes and evenly spaced entries of all weights.

    Entries are rounded to bfloat16, so that the hash is the same for a model loaded in float32 and in bfloat16.
    """
    digest = hashlib.sha256()
    weights = model.frozen_parameters()
    for name, weight in weights.items():
        if not weights.is_exact(name):
            digest.update(f"{name} {model.quantize}".encode())
            continue
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
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another file name.") from error


def fingerprint(examples: Sequence[Example]) -> str:
    """Return a hash of examples and their order."""
    rows = [dataclasses.asdict(example) for example in examples]
    rows = [row if row["options"] else {n: v for n, v in row.items() if n != "options"} for row in rows]
    content = json.dumps(rows, ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", errors="replace")).hexdigest()[:32]
