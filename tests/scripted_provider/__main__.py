"""``python -m tests.scripted_provider --port N``: an echo with the voice of a model API."""

from __future__ import annotations

import argparse

from .server import ScriptedProvider


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    options = parser.parse_args()
    provider = ScriptedProvider(host=options.host, port=options.port)
    print(provider.base_url, flush=True)
    provider.serve_until_interrupted()


if __name__ == "__main__":
    main()
