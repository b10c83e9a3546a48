"""OpenAI's Responses API on agent runs."""
