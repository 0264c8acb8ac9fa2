"""The online service: answers over HTTP, with accounts and a page."""
