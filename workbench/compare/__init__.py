"""The place Compare: comparisons of selectors, planned, followed and shown."""
