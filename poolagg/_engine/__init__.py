"""The engine drives one run on the caller's thread; it alone holds both a scheduler and a pool."""
