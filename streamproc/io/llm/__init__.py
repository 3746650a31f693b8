"""Language models behind an OpenAI-compatible API: endpoints, attempts, streams."""
