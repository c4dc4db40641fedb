"""Edits of activations as pure math: sites, gates, interventions and masks. Nothing here runs a model."""

from typing import TYPE_CHECKING

from jola._lazy import lazily

if TYPE_CHECKING:
    from jola.edits.gated import INITIAL_STD as INITIAL_STD
    from jola.edits.gated import GatedEdits as GatedEdits
    from jola.edits.gated import build_edits as build_edits
    from jola.edits.intervention import Edit as Edit
    from jola.edits.intervention import EditMask as EditMask
    from jola.edits.intervention import Intervention as Intervention
    from jola.edits.names import HALVES as HALVES
    from jola.edits.names import STATES as STATES
    from jola.edits.sites import Geometry as Geometry
    from jola.edits.sites import Site as Site

__getattr__ = lazily(
    __name__,
    {
        "jola.edits.gated": (
            "GatedEdits",
            "build_edits",
            "INITIAL_STD",
        ),
        "jola.edits.intervention": (
            "Edit",
            "EditMask",
            "Intervention",
        ),
        "jola.edits.names": (
            "HALVES",
            "STATES",
        ),
        "jola.edits.sites": (
            "Geometry",
            "Site",
        ),
    },
)
