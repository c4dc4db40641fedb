"""Sites: the points in a decoder layer where activations are edited, and the shapes there."""

from dataclasses import dataclass
from enum import StrEnum

from jola.settings import EditConfig


class Site(StrEnum):
    """A point in every layer of a decoder, in the order in which a forward pass reaches it."""

    HEADS = "heads"
    """Input of the attention output projection, (batch, tokens, heads · head_dim)."""
    ATTENTION = "attention"
    """Output of the attention output projection, (batch, tokens, hidden)."""
    MLP = "mlp"
    """Output of the MLP sub-layer before the residual is added, (batch, tokens, hidden)."""
    BLOCK = "block"
    """Residual stream after the layer, (batch, tokens, hidden)."""
    WEIGHTS = "weights"
    """The weights of linear modules of the layer, not an activation."""


@dataclass(frozen=True)
class Geometry:
    """The dimensions of a model that edits depend on. Heads are query heads."""

    architecture: str
    num_layers: int
    num_heads: int
    head_dim: int
    hidden_size: int

    def units(self, site: Site) -> tuple[int, int]:
        """(units in a layer, width of a unit) at a site."""
        return (self.num_heads, self.head_dim) if site is Site.HEADS else (1, self.hidden_size)


def sites_of(edits: EditConfig) -> list[Site]:
    """The sites that are edited, in the order in which a pass reaches them."""
    return [Site.HEADS, Site.MLP] if edits.sites == "both" else [Site(edits.sites)]


def unit_names(site: Site, units: int) -> tuple[str, ...]:
    """Names of the units of a layer at a site of activations: the numbers of the heads, or the name of the site."""
    return tuple(str(unit) for unit in range(units)) if site is Site.HEADS else (str(site),) * units
