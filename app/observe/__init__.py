"""What operators see of a gateway at work: metrics and traces.

Both listen at the edges of what happens anyway; nothing in the middle knows of them.
"""
