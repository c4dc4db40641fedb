"""`BiasEdits`: added biases of linear modules, trained by BitFit."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from jola.edits.intervention import EditMask
from jola.edits.weights import Place, WeightEdits


class BiasEdits(WeightEdits):
    """W·x + b + c for linear modules of any kind, with an added bias c of shape (1, outputs), initially 0: BitFit."""

    channels = ("bias",)
    parts: ClassVar = {"bias": ".beft_bias"}
    attributes = ("beft_bias",)

    def __init__(self, modules: Mapping[str, Any], paths: Sequence[str], layers: int, adapter: str = "") -> None:
        for module in modules.values():
            if not isinstance(module.beft_bias, _Biases):
                module.beft_bias = _Biases(module.beft_bias)
        super().__init__(modules, paths, layers, adapter)

    def _parameters_of(self, module: Any) -> dict[str, nn.Parameter]:
        return {"bias": module.beft_bias[self.adapter]}

    def _scale(self, place: Place, module: Any, factor: float) -> None:
        module.beft_bias.factors[self.adapter] = factor

    def _config(self) -> Any:
        from peft import BeftConfig

        return BeftConfig(target_modules=list(self.path_of.values()), task_type="CAUSAL_LM")

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Set the added biases to 0, so that the edited model equals the frozen one."""
        with torch.no_grad():
            for value in self.values.values():
                value.zero_()

    def on(self) -> dict[str, Tensor]:
        """Modules with a bias that is not zero."""
        return {"bias": self._map(lambda bias: float((bias != 0).any())) != 0}

    def norms(self) -> dict[str, Tensor]:
        """L2 norm of the added bias of each module, (layers, units), detached; 0 where there is no module."""
        return {"bias": self._map(lambda bias: float(bias.norm()))}

    def added(self, mask: EditMask | None = None, strength: float = 1.0) -> dict[str, Tensor]:
        """The added bias of each edited module, by path, (outputs,), detached.

        Raises:
            ValueError: The mask does not fit.
        """
        return {
            path: self.value(path, "bias").detach().flatten() * factor
            for path, factor in self.factors(mask, strength).items()
        }


class _Biases(nn.ParameterDict):
    """Added biases of a module by adapter. peft has no strength for them, so reading multiplies them by `factors`."""

    def __init__(self, biases: Mapping[str, nn.Parameter]) -> None:
        super().__init__(biases)
        self.factors: dict[str, float] = {}

    def __getitem__(self, adapter: str) -> Any:
        bias, factor = super().__getitem__(adapter), self.factors.get(adapter, 1.0)
        return bias if factor == 1 else bias * factor
