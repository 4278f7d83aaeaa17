"""Start worker processes by fork, spawn or a forkserver, with their streams and their identity in `multiprocessing`."""
