"""HTTP: routes, errors, limits and events."""
