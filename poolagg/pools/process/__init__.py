"""Worker processes: the pool, the parent's handle of each worker, the worker's loop, and the channels between them."""
