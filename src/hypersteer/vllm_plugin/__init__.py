"""vLLM serves steered requests, by a plug-in through its hooks; only this package knows vLLM."""
