"""The version, for whoever is below the public page."""

__version__ = "0.1.0"
