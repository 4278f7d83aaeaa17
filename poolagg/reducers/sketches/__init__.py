"""Quantiles, Distinct, HeavyHitters: approximate answers about any number of partials, in a few kilobytes.

The `datasketches` library makes the sketches; `pip install 'poolagg[sketches]'` installs it. A sketch does not pickle
by itself, so each accumulator is a class with `__reduce__` around one.
"""
