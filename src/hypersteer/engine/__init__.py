"""A running batch of the base LM: rows come and go, cache, sampling, stopping."""
