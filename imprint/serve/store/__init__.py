"""What the service keeps: accounts, sessions, keys, quotas and chats, in a database."""

from imprint.serve.store.errors import StoreError
from imprint.serve.store.limits import Limits
from imprint.serve.store.passwords import Hashing
from imprint.serve.store.principal import COMMAND_LINE, Actor, Principal, Role
from imprint.serve.store.restore import restore
from imprint.serve.store.store import Store

__all__ = ["COMMAND_LINE", "Actor", "Hashing", "Limits", "Principal", "Role", "Store", "StoreError", "restore"]
