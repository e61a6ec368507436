"""The IR out: custom resources or files, in the order that keeps every reader safe; status and Events."""
