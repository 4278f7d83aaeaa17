"""How a worker process starts: by fork, spawn or a forkserver, with its streams, its name and its place in
multiprocessing.
"""
