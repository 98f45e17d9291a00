"""The stages, each a module with `run(record, options)` that is started in a process of its own."""
