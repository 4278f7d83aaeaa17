"""Turn functions, items, partials and shared values into bytes, and back."""
