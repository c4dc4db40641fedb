"""The Playground tab: prompts, switches for single edits, effects and insight."""
