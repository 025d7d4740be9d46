"""Judges: how much of a concept a text shows, whether it answers, and how well it reads."""
