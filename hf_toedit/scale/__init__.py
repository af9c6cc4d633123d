"""Processes: how they start, stop and clean up."""
