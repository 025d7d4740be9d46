"""What several methods share that learn from examples: corpus, states, training, dictionaries."""
