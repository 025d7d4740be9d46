"""Evaluation as AxBench does it: protocol, metrics, and one report."""
