"""Shared parts of the page: markup, forms, fields, maps, view tools and style."""
