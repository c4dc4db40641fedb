"""Names of the parts of an edit that masks, tables, histories and files share."""

HALVES = ("offset", "scale")
"""The two halves of an edit; names of masks, gates, counts and columns everywhere."""

STATES = ("none", "offset", "scale", "both")
"""Which halves of a unit's edit are on, in the order of `GatedEdits.states`."""
