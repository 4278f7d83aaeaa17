"""Which worker runs which items, when states are flushed, what runs again: pure, events in, instructions out."""
