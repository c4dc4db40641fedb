"""Adapter directories: save, load, validate and describe trained edits, and download them from the Hub."""
