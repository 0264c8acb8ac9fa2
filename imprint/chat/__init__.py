"""A chat in a terminal: `imprint chat RUN|MODEL`."""

from imprint.chat.start import ChatSection, chat_command

__all__ = ["ChatSection", "chat_command"]
