"""The Compare tab: plan, follow and view comparisons of selectors."""
