"""Agents: who answers, with which model, prompt and tools."""
