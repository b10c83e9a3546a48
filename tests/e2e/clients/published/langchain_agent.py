"""LangChain: an agent with a tool of its own, a stream, and an object of a Pydantic model."""

import json

from langchain.agents import create_agent
from langchain.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Menu(BaseModel):
    dish: str
    courses: int


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"clear in {city}"


model = ChatOpenAI(model="openclaw", model_kwargs={"user": "langchain"})
agent = create_agent(model, tools=[get_weather], system_prompt="Be brief.")
state = agent.invoke({"messages": [{"role": "user", "content": "how is the weather in Rome?"}]})
keyless = ChatOpenAI(model="openclaw")
pieces = [chunk.text for chunk in keyless.stream("one two")]
menu = keyless.with_structured_output(Menu).invoke("what is for dinner?")
answer = state["messages"][-1]
told = {"answer": answer.text, "tokens": answer.usage_metadata["total_tokens"], "pieces": pieces}
print(json.dumps({**told, "menu": menu.model_dump()}))
