"""Workers as processes: the pool, its workers as the parent sees them, and what lies between the two."""
