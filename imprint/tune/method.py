"""The tuning methods, as `tune.method` names them; imports no library, so that the command line starts fast."""

from typing import Literal

AdapterMethod = Literal["prefix", "lora"]
"""The methods whose result is an adapter beside the base."""
Method = Literal[AdapterMethod, "full"]
"""All methods."""
