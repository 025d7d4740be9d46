"""The base LM: load it, find its blocks and sites, run it under edits, generate."""
