"""Base prompts and steering prompts of the tests of the analysis."""

PROMPTS = ["Tell me about your day.", "Why is the sky blue?", "Name a river."]
STEER = ["talk like a pirate", "mention bees"]
