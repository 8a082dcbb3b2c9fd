"""The words for how the application of a replica stands: in run.json, in tables."""

from enum import StrEnum


class AppState(StrEnum):
    """How the application of a replica stands."""

    RUNNING = "RUNNING"
    STARTING = "STARTING"
    NOT_LISTENING = "NOT LISTENING"
    CRASHING = "CRASHING"
