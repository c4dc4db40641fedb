"""Files, paths, processes and progress: what everything else uses, and what knows nothing of models."""
