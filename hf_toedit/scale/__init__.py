"""Processes: starting, stopping and cleaning up."""
