"""MCP servers as tools: their official SDK in a child process, spoken to over a socket."""
