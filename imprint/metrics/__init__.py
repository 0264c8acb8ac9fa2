"""Scores of every task under a named protocol, with intervals, and rates that a mean score hides."""

from imprint.metrics.baseline import BASELINE, baseline_predictions
from imprint.metrics.classification import Classified, ClassScore
from imprint.metrics.judge import COUNTED, METRIC, TASK_PROTOCOLS, Judged, Likelihood, Metric, judge, judge_by, judged_gains
from imprint.metrics.means import METRICS, Mean, Note, Summary, gains, interval, score, summary
from imprint.metrics.protocols import PROTOCOLS, Protocol, ProtocolName, protocol_named
from imprint.metrics.rates import Rates, Warned, copied_share, rates_of, repeated_share, warnings_of
from imprint.metrics.scores import RowScore, score_protocols, score_rows
from imprint.metrics.tokens import words

__all__ = [
    "BASELINE",
    "COUNTED",
    "METRIC",
    "METRICS",
    "PROTOCOLS",
    "TASK_PROTOCOLS",
    "ClassScore",
    "Classified",
    "Judged",
    "Likelihood",
    "Mean",
    "Metric",
    "Note",
    "Protocol",
    "ProtocolName",
    "Rates",
    "RowScore",
    "Summary",
    "Warned",
    "baseline_predictions",
    "copied_share",
    "gains",
    "interval",
    "judge",
    "judge_by",
    "judged_gains",
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
