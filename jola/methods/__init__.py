"""Methods for fitting edits of a frozen model. Each is in its own file; `METHODS` lists them.

To add one, write a `Method` in a file here, add it to `METHODS`, and add a row to ``tests/methods/contract.py``.
"""

from typing import Any

from jola.errors import InputError
from jola.methods.base import Method, Stage
from jola.methods.bitfit import BitFit
from jola.methods.houlsby import Houlsby
from jola.methods.jola import JoLA
from jola.methods.lofit import LoFiT
from jola.methods.lora import LoRA
from jola.methods.loreft import LoReFT
from jola.methods.red import RED
from jola.methods.repe import RePE
from jola.methods.zero_shot import ZeroShot
from jola.settings import TrainingConfig, check_settings

METHODS: dict[str, Method] = {
    method.name: method
    for method in (JoLA(), RED(), LoRA(), BitFit(), LoReFT(), Houlsby(), LoFiT(), RePE(), ZeroShot())
}
"""All methods by name."""

__all__ = ["METHODS", "Method", "Stage", "method_named", "method_of_settings"]


def method_named(name: str) -> Method:
    """The method with this name. `InputError` if it does not exist."""
    if not isinstance(name, str) or name not in METHODS:
        raise InputError(f"There is no method {name!r}; choose one of {', '.join(METHODS)}.")
    return METHODS[name]


def method_of_settings(edits: Any) -> tuple[Method, Any]:
    """Check settings; return their method and the settings. None means the defaults of JoLA."""
    if edits is None:
        edits = METHODS["jola"].settings()
    method = next((method for method in METHODS.values() if type(edits) is method.settings), None)
    if method is None:
        raise InputError(
            f"edits is of type {type(edits).__name__}; give the settings of a method, such as EditConfig for JoLA."
        )
    check_settings(edits)
    method.check(edits, TrainingConfig())
    return method, edits
