"""Training of agents: members play episodes in environments."""
