"""Prefect flows over the DVC graph: which stage runs when and where. ARCHITECTURE.md, "Runs", has the modules."""
