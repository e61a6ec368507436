"""Who contradicts the compiler: the oracle, and rendered rules read back for the simulator."""
