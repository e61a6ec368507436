"""The little of netlink that the agent speaks itself."""
