"""How functions, items, partials and shared values become bytes, and come back."""
