"""The `datasketches` library, which is optional."""

from __future__ import annotations

from typing import Any

__all__ = ["library"]


def library(reducer: str) -> Any:
    """Return the library, or raise an ImportError that says how to install it for this reducer."""
    try:
        import datasketches
    except ImportError as error:
        raise ImportError(
            f"{reducer} requires the datasketches library, which cannot be imported here: "
            f"pip install 'poolagg[sketches]'"
        ) from error
    return datasketches
