"""The Runs tab: the table of runs, import and export."""
