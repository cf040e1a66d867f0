"""Trials as files that other work goes on from."""
