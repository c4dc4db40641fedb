"""The place Runs: the table of runs, import and export."""
