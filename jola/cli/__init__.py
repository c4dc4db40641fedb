"""The command line ``jola``: one file for each group of commands."""
