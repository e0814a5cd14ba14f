"""The version of the package: in one place, at the bottom of the house, so that every room may name it."""

__version__ = "0.2.0"
