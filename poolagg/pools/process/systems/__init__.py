"""The primitives that the process pool needs of an operating system, one file for each system."""
