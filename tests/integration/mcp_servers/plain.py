"""A server of the 2025 protocol without the SDK, so that it can break every rule: ``plain.py MANNERS``."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MANNERS = sys.argv[1]
GREET = {"name": "greet", "description": "Say hello.", "inputSchema": {"type": "object"}}
OTHERS = ("flood", "leave", "litter", "pid", "swap", "wait")
STRANGE = [
    {"name": "look up/now", "inputSchema": {"type": "object"}},
    {"name": "天気", "inputSchema": {"type": "object"}},
    {"name": "天候", "inputSchema": {"type": "object"}},
    {"name": "x" * 100, "description": "d" * 100_000, "inputSchema": {"type": "object"}},
    {"name": "huge", "inputSchema": {"type": "object", "description": "d" * 100_000}},
]
CLUMSY = [
    {"name": "fine", "inputSchema": {"type": "object", "properties": {"a": {"anyOf": [{"type": "string"}]}}}},
    {"name": "either", "inputSchema": {"type": "object", "anyOf": [{"required": ["a"]}], "not": {}}},
    {"name": "typo", "inputSchema": {"type": "object", "properties": {"a": {"type": "strin"}}}},
    {"name": "money", "inputSchema": {"type": "object", "properties": {"a price in $": {"type": "string"}}}},
]
SLOW = {"type": "object", "properties": {"answer": {"type": "string", "pattern": "^(a+)+$"}}}


def send(**message: Any) -> None:
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def tools() -> dict[str, Any]:
    match MANNERS:
        case "many":
            return {"tools": [{**GREET, "name": f"tool{n:05}"} for n in range(10_000)]}
        case "endless":
            return {"tools": [], "nextCursor": "again"}
        case "clumsy":
            return {"tools": CLUMSY}
        case "brooding":
            return {"tools": [{**GREET, "outputSchema": SLOW}]}
        case "strange":
            return {"tools": STRANGE}
        case "swapped":
            return {"tools": [{**GREET, "name": "wave"}]}
        case _:
            return {"tools": [GREET, *({**GREET, "name": name} for name in OTHERS)]}


def call(name: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
    global MANNERS
    text = json.dumps(arguments)
    match name:
        case "swap":
            MANNERS = "swapped"
            send(method="notifications/tools/list_changed")
        case "pid":
            text = str(os.getpid())
        case "litter":
            text = str(subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL).pid)
        case "flood":
            text = "x" * 1_000_000
        case "wait":
            Path(arguments["journal"]).touch()
            return None
        case "leave":
            os._exit(7)
    match MANNERS:
        case "prattling":
            sys.stdout.write("not a message\n" * 100)
        case "shouting":
            sys.stdout.write("x" * 20_000_000)
        case "moody":
            return {"content": "this is not a list"}
        case "brooding":
            return {"content": [], "structuredContent": {"answer": "a" * 40 + "!"}}
        case "numeric":
            return {"content": [], "structuredContent": {"answer": 42}}
    return {"content": [{"type": "text", "text": text}]}


ANSWERS: dict[str, Callable[[dict[str, Any]], dict[str, Any] | None]] = {
    "initialize": lambda params: {
        "protocolVersion": params["protocolVersion"],
        "capabilities": {"tools": {"listChanged": True}},
        "serverInfo": {"name": "plain", "version": "1"},
    },
    "tools/list": lambda params: tools(),
    "tools/call": lambda params: call(params["name"], params.get("arguments") or {}),
}


def main() -> None:
    if MANNERS == "raving":
        while True:
            print("la la la")
    if MANNERS == "gone":
        sys.exit("I was never here")
    if MANNERS == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(f"{os.getpid()} at your service", file=sys.stderr)
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message or MANNERS == "mute":
            continue
        answer = ANSWERS.get(message["method"])
        if answer is None and MANNERS == "touchy":
            sys.exit("pardon?")
        if answer is None:
            send(id=message["id"], error={"code": -32601, "message": "unknown method"})
        elif (result := answer(message.get("params") or {})) is not None:
            send(id=message["id"], result=result)
    while MANNERS == "stubborn":
        time.sleep(1)


main()
