"""The place Playground: prompts, switches of single edits, effects, insight."""
