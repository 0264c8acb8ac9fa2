"""The one door to processes, devices and the optimizer: one process or many, each with all weights or with a share of them."""

from imprint.engine.crew import ALONE, Crew, join, launched, leave_word, orphaned
from imprint.engine.engine import Engine
from imprint.engine.launch import launch, processes_here
from imprint.engine.section import EngineSection, OptimizerSection
from imprint.engine.zero import refuse_missing_type

__all__ = [
    "ALONE",
    "Crew",
    "Engine",
    "EngineSection",
    "OptimizerSection",
    "join",
    "launch",
    "launched",
    "leave_word",
    "orphaned",
    "processes_here",
    "refuse_missing_type",
]
