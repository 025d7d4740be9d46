"""How evaluation harnesses ask steered models: lm-evaluation-harness and Inspect."""
