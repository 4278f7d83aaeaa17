"""Assign items to workers, request flushes, and repeat lost work: pure, events in, instructions out."""
