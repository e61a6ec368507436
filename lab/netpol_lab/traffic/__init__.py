"""Real packets: who sends them, who answers, where they pass."""
