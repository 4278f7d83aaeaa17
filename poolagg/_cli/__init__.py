"""The command line: `poolagg run`, `poolagg check` and `poolagg show`."""
