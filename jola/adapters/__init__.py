"""Trained edits as a directory of files: written, read, checked, described, and fetched from the Hub."""
