"""Cases that are applied one after the other, with the connections that each must allow and refuse."""
