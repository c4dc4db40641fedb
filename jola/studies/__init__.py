"""Comparisons of many trainings: cells, results, statistics."""
