"""What a finished run is reported as, in OpenClaw's ``agent --json`` shape. Pure."""

from __future__ import annotations

from typing import Any

from ..sessions.records import Run as RunRecord


def agent_report(run: RunRecord, text: str) -> dict[str, Any]:
    """``{"payloads": [...], "meta": {...}}`` for a recorded run and its visible text."""
    provider, _, model = run.model.partition("/")
    usage = run.usage
    return {
        "payloads": [{"text": text, "mediaUrl": None}] if text else [],
        "meta": {
            "durationMs": max(0, (run.ended_at or run.created_at) - run.created_at),
            "agentMeta": {
                "sessionId": run.session_id,
                "sessionKey": run.session_key,
                "provider": provider,
                "model": model,
                "usage": {
                    "input": usage.input - usage.cached,
                    "output": usage.output,
                    "cacheRead": usage.cached,
                    "cacheWrite": 0,
                    "total": usage.total,
                },
            },
            "aborted": run.status == "cancelled",
            "stopReason": run.finish_reason,
        },
    }
