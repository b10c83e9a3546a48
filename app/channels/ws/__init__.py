"""The WebSocket channel: OpenClaw's Gateway protocol, versions 3 and 4."""
