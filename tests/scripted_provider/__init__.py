"""A real HTTP server that plays a model API, word for word as a test scripts it.

It speaks OpenAI's ``/v1/chat/completions`` and ``/v1/responses``, Anthropic's ``/v1/messages``
and Ollama's ``/api/chat``, and refuses what the last three would refuse; also OpenAI's
``/v1/embeddings`` and Ollama's ``/api/embed``.

::

    with ScriptedProvider() as provider:
        provider.script(Reply("hello", delay=0.1), Status(429))   # the next two calls
        provider.on("weather", Reply("sunny"))                    # whenever the user says so
        ...                                                       # otherwise: "echo: <text>"

Every wait of the server ends when the client leaves (counted in ``disconnects``) or the
server stops.
"""

from .replies import Garbage, Hang, Raw, Reply, ScriptedReply, Status, call, chunk
from .server import Received, ScriptedProvider
from .vectors import vector_of

__all__ = [
    "Garbage",
    "Hang",
    "Raw",
    "Received",
    "Reply",
    "ScriptedProvider",
    "ScriptedReply",
    "Status",
    "call",
    "chunk",
    "vector_of",
]
