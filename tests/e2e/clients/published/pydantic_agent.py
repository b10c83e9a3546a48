"""Pydantic AI: an agent with a tool whose answer is an object, and one whose answer is streamed."""

import asyncio
import json

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel


class Menu(BaseModel):
    dish: str
    courses: int


model = OpenAIChatModel("openclaw:beta")
cook = Agent(model, output_type=Menu, system_prompt="You are a cook.")
talker = Agent(model)


@cook.tool_plain
def get_season(month: str) -> str:
    """The season that a month belongs to."""
    return f"{month} is in autumn"


async def main() -> None:
    result = await cook.run("what is for dinner in October?")
    async with talker.run_stream("one two") as stream:
        texts = [text async for text in stream.stream_text(debounce_by=None)]
    print(json.dumps({"menu": result.output.model_dump(), "texts": texts}))


asyncio.run(main())
