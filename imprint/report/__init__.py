"""Pictures and pages for people: the loss curve of a run, and what tuning changed."""

from imprint.report.comparison import Compared, Comparison
from imprint.report.confusion import Panel, confusion_picture
from imprint.report.curve import loss_curve
from imprint.report.markdown import write_markdown
from imprint.report.page import write_html

__all__ = ["Compared", "Comparison", "Panel", "confusion_picture", "loss_curve", "write_html", "write_markdown"]
