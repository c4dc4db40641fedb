"""The Train tab: its form, the live gate map and the training curves."""
