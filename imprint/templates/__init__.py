"""Chat templates: how each model family encodes a conversation as ids, for training and inference."""

from imprint.templates.choice import TEMPLATE_HELP, TemplateName, choose_template, read_template, writes_date
from imprint.templates.conversation import Message, Segment, Template, Turns, make_messages, split_rounds
from imprint.templates.history import conversation, read_messages, read_pairs, with_turn

__all__ = [
    "TEMPLATE_HELP",
    "Message",
    "Segment",
    "Template",
    "TemplateName",
    "Turns",
    "choose_template",
    "conversation",
    "make_messages",
    "read_messages",
    "read_pairs",
    "read_template",
    "split_rounds",
    "with_turn",
    "writes_date",
]
