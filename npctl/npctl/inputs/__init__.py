"""The state that commands look at: files, a cluster, or a change of either."""
