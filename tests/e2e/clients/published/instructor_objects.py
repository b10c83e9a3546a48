"""Instructor: objects of a Pydantic model in each of its modes, asked for again when one is wrong."""

import json
import sys

import instructor
from openai import OpenAI
from pydantic import BaseModel, Field


class Menu(BaseModel):
    dish: str
    courses: int = Field(ge=1)


mode = sys.argv[1]
client = instructor.from_openai(OpenAI(max_retries=0), mode=instructor.Mode[mode])
question = [{"role": "user", "content": "what is for dinner?"}]
asked = {"model": "openclaw", "user": f"instructor-{mode}", "messages": question}
menu = client.chat.completions.create(**asked, response_model=Menu, max_retries=2)
print(json.dumps(menu.model_dump()))
