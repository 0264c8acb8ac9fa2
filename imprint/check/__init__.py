"""Checks of data files and of the machine."""
