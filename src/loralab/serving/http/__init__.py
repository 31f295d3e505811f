"""The server: OpenAI's routes and vLLM's for adapters, on FastAPI."""
