"""What the service keeps: accounts, sessions, keys, quotas and chats, in a database."""
