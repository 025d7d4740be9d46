"""Sweeps: many runs, planned, trained, measured, and gone on with after a stop."""
