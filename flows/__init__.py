"""Prefect flows over the DVC graph: the room for which stage runs when and where. Empty until the runners are built."""
