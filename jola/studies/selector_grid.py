"""The plan of a comparison of selectors, and the names of its cells. Imports no PyTorch, so that listing is fast."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from jola.errors import InputError
from jola.settings import SELECTOR_NAMES

SWAP_NAMES = ("dsp", "pass")
"""Methods whose gates can replace JoLA's (`jola.studies.editing.gate_swap`)."""
AUTO = "auto"
"""A value of K: as many heads as JoLA leaves open with the same seed."""
HALVES = "halves"
"""A value of K: as many offsets and scales as JoLA leaves open with the same seed, on a selector's best heads."""
DEFAULT_SELECTORS = ("jola", "smp", "dsp", "pass", "gradient", "offset", "lofit", "random")
"""All but the ablation effect, which is slow, and the variants on a tuned base, which need another training."""

CELL = re.compile(r"(?P<protocol>jola|edit|swap)(?:-(?P<method>\w+)-k(?P<k>\w+))?-seed(?P<seed>[0-9]{1,10})")
"""Pattern of the names that `cell_name` gives to training runs."""


def cell_name(protocol: str, method: str, k: str, seed: int) -> str:
    """Return the name of a cell, such as ``edit-dsp-k32-seed42`` or ``jola-seed42``."""
    parts = [protocol] + ([method] if method != protocol else []) + ([f"k{k}"] if k else []) + [f"seed{seed}"]
    return "-".join(parts)


@dataclass(frozen=True)
class SelectorGrid:
    """The plan of a comparison of selectors.

    Args:
        selectors: Names in `SELECTOR_NAMES`, for select-then-edit.
        swaps: Names in `SWAP_NAMES`, for the gate swap.
        ks: Numbers of heads, `AUTO` or `HALVES`.
        seeds: Seeds of the training examples, the edits, the data order and the selectors.
    """

    selectors: tuple[str, ...] = DEFAULT_SELECTORS
    swaps: tuple[str, ...] = ()
    ks: tuple[str, ...] = (AUTO,)
    seeds: tuple[int, ...] = (42,)

    def validate(self, total: int | None = None) -> Self:
        """Return self, or raise `InputError` for an invalid value; `total` is the number of heads, once known."""
        for given, known, what in (
            (self.selectors, SELECTOR_NAMES, "selector"),
            (self.swaps, SWAP_NAMES, "method for gate swaps"),
        ):
            if unknown := [name for name in given if name not in known]:
                raise InputError(f"{unknown[0]!r} is not a {what}; choose one of {', '.join(known)}.")
        for k in self.ks:
            if k in (AUTO, HALVES):
                continue
            if not (k.isascii() and k.isdigit() and int(k) > 0):
                raise InputError(f"K is {k!r}; it must be {AUTO}, {HALVES} or a number of heads above 0.")
            if total is not None and int(k) > total:
                raise InputError(f"K is {k}, but the model has {total} heads.")
        if not self.ks or not self.seeds or not (self.selectors or self.swaps):
            raise InputError("There is nothing to compare; give selectors, a K and a seed.")
        if not self.selectors and set(self.ks) == {HALVES}:
            raise InputError(f"K {HALVES} applies to selectors, not to gate swaps; add a selector or another K.")
        if any(not 0 <= seed < 2**32 for seed in self.seeds):
            raise InputError("Seeds must be from 0 to 4294967295.")
        return self

    def check_halves(self, folder: Path) -> None:
        """Raise `InputError` if K is `HALVES` and the comparison in a folder has JoLA's result, but not its edits."""

        def done(*name: Any) -> bool:
            return (folder / "cells" / cell_name(*name) / "result.json").exists()

        for seed in self.seeds if HALVES in self.ks else ():
            wanted = any(not done("edit", name, HALVES, seed) for name in self.selectors)
            edits = folder / "cells" / cell_name("jola", "jola", "", seed) / "adapter"
            if wanted and done("jola", "jola", "", seed) and not edits.is_dir():
                raise InputError(
                    f"K {HALVES} needs the edits that JoLA trained with seed {seed}, and this comparison does not have "
                    f"them; choose {AUTO} or numbers of heads, or start a new comparison."
                )

    def cells(self) -> list[tuple[str, str, str, int]]:
        """Return (protocol, method, K, seed) of everything that is trained."""
        found: list[tuple[str, str, str, int]] = []
        for seed in self.seeds:
            found.append(("jola", "jola", "", seed))
            found += [("edit", name, k, seed) for name in self.selectors for k in self.ks]
            # The masks of a gate swap have K offsets and K scales each.
            found += [("swap", name, k, seed) for name in self.swaps for k in self.ks if k != HALVES]
        return found

    def cell_names(self) -> list[str]:
        """Return the names of `cells`."""
        return [cell_name(*cell) for cell in self.cells()]


Grid = SelectorGrid
"""The name in `jola.selector_grid`, the import path of earlier versions."""
