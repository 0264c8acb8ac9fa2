"""The one exception that is meant for the person at the keyboard."""

from imprint.messages import Bilingual


class UserError(Exception):
    """Something that the user can mend: the text says where, what was found, what is allowed and what to do next."""

    def __init__(self, message: str | Bilingual) -> None:
        super().__init__(str(message))
