"""Examples: how they are read, which tasks there are, and the default model and data that are fetched."""
