"""Submission to an existing Ray cluster through its Jobs API: a bundle, a preflight job, the search as a job."""
