"""The place Train: its form, the live map of gates, the curves."""
