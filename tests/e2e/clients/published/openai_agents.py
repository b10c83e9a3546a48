"""OpenAI's Agents SDK: a function tool and a hand-off; ``chat_completions`` or ``responses``."""

import asyncio
import json
import sys

from agents import Agent, Runner, function_tool, set_default_openai_api, set_tracing_disabled

set_tracing_disabled(True)
set_default_openai_api(sys.argv[1])


@function_tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"clear in {city}"


forecaster = Agent(name="forecaster", instructions="Forecast.", tools=[get_weather], model="openclaw:beta")
front = Agent(name="front desk", instructions="Send people on.", handoffs=[forecaster], model="openclaw")


async def main() -> None:
    result = Runner.run_streamed(front, "how is the weather in Rome?")
    kinds = [event.name async for event in result.stream_events() if event.type == "run_item_stream_event"]
    print(json.dumps({"answer": result.final_output, "agent": result.last_agent.name, "kinds": kinds}))


asyncio.run(main())
