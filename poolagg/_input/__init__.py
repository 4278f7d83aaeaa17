"""What goes in: sources pulled into batches, the functions around `func`, and items as they are told."""
