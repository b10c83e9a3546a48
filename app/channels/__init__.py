"""Channels: how people and programs reach the gateway."""
