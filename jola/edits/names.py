"""Names of the parts of an edit, used in masks, tables, histories and files."""

HALVES = ("offset", "scale")
"""The two halves of an edit; masks, gates, counts and columns have these names."""

STATES = ("none", "offset", "scale", "both")
"""Which halves of a unit's edit are on, in the order of `GatedEdits.states`."""
