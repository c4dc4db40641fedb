"""The named endpoints of the app, for programs."""
