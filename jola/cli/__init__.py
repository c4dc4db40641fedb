"""The command line ``jola``: one file per group of commands."""
