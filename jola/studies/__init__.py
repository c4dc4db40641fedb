"""Studies: comparisons of selectors over many trainings, their results and statistics."""
