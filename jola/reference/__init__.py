"""The interface of the authors' reference package: its configuration and data classes."""
