"""Data: records, chat templates, tasks, and the default model and data."""
