"""An OpenAI-compatible server with a steering prompt in every request, and a page to play with."""
