"""The command line."""

from imprint.cli.entry import main
from imprint.cli.parser import build_parser

__all__ = ["build_parser", "main"]
