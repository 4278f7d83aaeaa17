"""External pools: executors, `multiprocessing` pools, and the engines of clusters."""
