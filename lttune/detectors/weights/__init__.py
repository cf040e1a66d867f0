"""Initial weights of detectors: published files and our own, whatever code named their tensors."""

from lttune.detectors.weights.load import LoadReport, Mismatch, load_weights
from lttune.detectors.weights.urls import is_address

__all__ = ["LoadReport", "Mismatch", "is_address", "load_weights"]
