"""Talking to language models behind an OpenAI-compatible endpoint."""
