"""Studies: comparisons of selectors over many training runs, their results and statistics."""
