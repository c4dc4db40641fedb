"""`LowRankEdits`: low-rank changes of the weights of linear modules, trained by LoRA."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from jola.edits.intervention import EditMask
from jola.edits.weights import Place, WeightEdits
from jola.errors import InputError


class LowRankEdits(WeightEdits):
    """W + (α/r)·B·A for linear modules W, with A (r, inputs) and B (outputs, r): LoRA."""

    channels = ("update",)
    parts: ClassVar = {"A": ".lora_A.weight", "B": ".lora_B.weight"}
    attributes = ("lora_A", "lora_B", "lora_dropout")

    def __init__(self, modules: Mapping[str, Any], paths: Sequence[str], layers: int, adapter: str = "") -> None:
        super().__init__(modules, paths, layers, adapter)
        # Registered here, because in the model they would follow the frozen model, which is always in evaluation mode.
        self.dropouts = nn.ModuleList(module.lora_dropout[adapter] for module in modules.values())
        self._scaling = {place: module.scaling[adapter] for place, module in self._modules_of.items()}

    def _parameters_of(self, module: Any) -> dict[str, nn.Parameter]:
        return {"A": module.lora_A[self.adapter].weight, "B": module.lora_B[self.adapter].weight}

    def _scale(self, place: Place, module: Any, factor: float) -> None:
        module.scaling[self.adapter] = self._scaling[place] * factor

    def _config(self) -> Any:
        from peft import LoraConfig

        paths = list(self.path_of.values())
        rank = len(self.value(paths[0], "A"))
        alpha = rank * next(iter(self._scaling.values()))
        return LoraConfig(r=rank, lora_alpha=alpha, target_modules=paths, bias="none", task_type="CAUSAL_LM")

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Draw A uniformly, as in peft, and set B to 0, so that the edited model equals the frozen one."""
        with torch.no_grad():
            for name, value in self.values.items():
                if name.endswith("A"):
                    fresh = torch.empty(value.shape)
                    nn.init.kaiming_uniform_(fresh, a=math.sqrt(5), generator=generator)
                    value.copy_(fresh)
                else:
                    value.zero_()

    def seed(self, seed: int) -> None:
        """Seed PyTorch's global generators, from which dropout draws, so that a resumed training repeats it."""
        if any(isinstance(dropout, nn.Dropout) for dropout in self.dropouts):
            torch.manual_seed(seed)

    def on(self) -> dict[str, Tensor]:
        """Modules whose weights are changed."""
        return {"update": self._map(lambda a, b: float((b != 0).any() and (a != 0).any())) != 0}

    def norms(self) -> dict[str, Tensor]:
        """Frobenius norm of (α/r)·B·A of each module, (layers, units), detached; 0 where there is no module."""
        # ‖BA‖² = tr(AᵀBᵀBA) = Σ (BᵀB) ⊙ (AAᵀ) does not need the full matrix.
        norms = self._map(lambda a, b: float(((b.T @ b) * (a @ a.T)).sum().clamp(min=0).sqrt()))
        scaling = torch.zeros_like(norms)
        for place, value in self._scaling.items():
            scaling[place] = value
        return {"update": norms * scaling}

    def change(self, path: str) -> Tensor:
        """(α/r)·B·A of one module, (outputs, inputs), detached."""
        place = next(place for place, own in self.path_of.items() if own == path)
        a, b = (self.value(path, part).detach() for part in ("A", "B"))
        return self._scaling[place] * (b @ a)

    def factorised(
        self, mask: EditMask | None = None, strength: float = 1.0
    ) -> dict[str, tuple[Tensor, Tensor, float]]:
        """(A, B, factor) of each edited module, by path; the change of its weight is factor · B·A.

        Raises:
            ValueError: The mask does not fit.
        """
        scaling = {self.path_of[place]: value for place, value in self._scaling.items()}
        return {
            path: (self.value(path, "A"), self.value(path, "B"), scaling[path] * factor)
            for path, factor in self.factors(mask, strength).items()
        }

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor], layers: int, scaling: float = 1.0) -> Self:
        """As in `WeightEdits`; `scaling` is α/r."""
        edits = super().of_tensors(tensors, layers)
        for path in edits.path_of.values():
            a, b = (edits.value(path, part) for part in edits.parts)
            if len(a) != b.shape[1]:
                raise InputError(f"The two matrices of {path[:100]!r} differ in rank; the adapter is damaged.")
        edits._scaling = dict.fromkeys(edits.path_of, scaling)
        return edits
