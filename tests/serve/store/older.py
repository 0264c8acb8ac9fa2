"""Databases of older schemas."""

from functools import partial
from pathlib import Path

import pytest

from imprint.serve.store import database as database_module
from imprint.serve.store import schema
from imprint.serve.store.database import Database


def make_older_database(folder: Path, revision: str) -> None:
    """A database as it was with this schema, empty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database_module, "newest_revision", lambda: revision)
        patch.setattr(database_module, "migrate", partial(schema.migrate, wanted=revision))
        Database(folder).close()
