"""Files, paths, processes and progress. Nothing here knows about models."""
