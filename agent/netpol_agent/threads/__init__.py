"""What crosses between the agent's threads: the background's tasks, requests to the agent's loop, and what wakes it."""
