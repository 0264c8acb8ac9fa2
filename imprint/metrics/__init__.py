"""Chinese ROUGE and BLEU under a named protocol, with intervals, and rates that a mean score hides."""

from imprint.metrics.means import METRICS, Mean, Summary, gains, interval, score, summary
from imprint.metrics.protocols import PROTOCOLS, Protocol, ProtocolName, protocol_named
from imprint.metrics.rates import Rates, Warned, copied_share, rates_of, repeated_share, warnings_of
from imprint.metrics.scores import RowScore, score_protocols, score_rows
from imprint.metrics.tokens import words

__all__ = [
    "METRICS",
    "PROTOCOLS",
    "Mean",
    "Protocol",
    "ProtocolName",
    "Rates",
    "RowScore",
    "Summary",
    "Warned",
    "copied_share",
    "gains",
    "interval",
    "protocol_named",
    "rates_of",
    "repeated_share",
    "score",
    "score_protocols",
    "score_rows",
    "summary",
    "warnings_of",
    "words",
]
