"""The input side: sources and batches, the functions around `func`, and items as messages show them."""
