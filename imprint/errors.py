"""The one exception that is meant for the person at the keyboard."""


class UserError(Exception):
    """Something that the user can mend: the text says where, what was found, what is allowed and what to do next."""
