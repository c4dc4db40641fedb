"""The reference package's interface: configuration and data in its form."""
