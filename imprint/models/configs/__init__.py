"""The config.json of each architecture, read and checked, as a frozen dataclass."""
