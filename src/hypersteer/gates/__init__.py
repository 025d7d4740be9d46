"""When an edit acts, as values: conditions, rules over them, and what was decided."""
