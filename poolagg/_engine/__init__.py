"""One run, on the caller's thread: the one place that holds a scheduler and a pool."""
