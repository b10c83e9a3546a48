"""smolagents: an agent whose model answers in Python, which is run here, step by step."""

import json

from smolagents import CodeAgent, OpenAIModel, tool


@tool
def count_letters(word: str) -> int:
    """Counts letters.

    Args:
        word: what is counted.
    """
    return len(word)


model = OpenAIModel("openclaw", user="smolagents")
agent = CodeAgent(tools=[count_letters], model=model, max_steps=3, verbosity_level=0)
print(json.dumps({"answer": agent.run("how long is the word gateway?")}))
