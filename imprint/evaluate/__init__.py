"""`imprint evaluate RUN|MODEL --data FILE`: answers written as they come, then scores under a named protocol."""

from imprint.evaluate.answering import Answers, answer_all
from imprint.evaluate.command import answers_folder, evaluate_command, name_of, open_asked, read_data
from imprint.evaluate.scores import CONFUSION, baseline_of, draw_confusions, learned_samples, references_told, write_scores
from imprint.evaluate.section import EvaluateSection, decoding, reference_limit, resolve

__all__ = [
    "CONFUSION",
    "Answers",
    "EvaluateSection",
    "answer_all",
    "answers_folder",
    "baseline_of",
    "decoding",
    "draw_confusions",
    "evaluate_command",
    "learned_samples",
    "name_of",
    "open_asked",
    "read_data",
    "reference_limit",
    "references_told",
    "resolve",
    "write_scores",
]
