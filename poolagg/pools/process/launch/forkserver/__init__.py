"""Workers that one forkserver of this process forks for all its pools."""
