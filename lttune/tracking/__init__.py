"""Records of a search: plain files, and MLflow."""

from collections.abc import Mapping

from lttune.tracking.base import Tracker
from lttune.tracking.jsonl import JsonlTracker, read_trials
from lttune.tracking.mlflow import MlflowTracker, SyncResult, sync
from lttune.tracking.store import experiment_name, redact, store_uri, study_store, ui_command

TRACKERS: Mapping[str, type[Tracker]] = {
    "jsonl": JsonlTracker,
    "mlflow": MlflowTracker,
}

__all__ = [
    "TRACKERS",
    "JsonlTracker",
    "MlflowTracker",
    "SyncResult",
    "Tracker",
    "experiment_name",
    "read_trials",
    "redact",
    "store_uri",
    "study_store",
    "sync",
    "ui_command",
]
