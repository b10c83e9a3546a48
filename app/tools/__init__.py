"""Tools: what agents can do, and the policy that says which."""
