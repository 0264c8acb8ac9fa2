"""How each family writes a conversation as ids, for training and for talking."""

from imprint.templates.choice import TEMPLATE_HELP, TemplateName, choose_template, read_template
from imprint.templates.conversation import Message, Segment, Template, Turns, conversation, rounds_of

__all__ = [
    "TEMPLATE_HELP",
    "Message",
    "Segment",
    "Template",
    "TemplateName",
    "Turns",
    "choose_template",
    "conversation",
    "read_template",
    "rounds_of",
]
