"""What WebSocket clients may ask for, a module for each family of methods."""
