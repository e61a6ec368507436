"""What the agent answers on its port: health, metrics, the rules of one pod."""
