"""What is in force on this node, for programs and people."""
