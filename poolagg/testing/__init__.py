"""Test the laws of your own reducer with `check_reducer`, of your own resource with `check_resource`."""

from poolagg.testing.laws import LawBroken
from poolagg.testing.reducers import LAWS, check_reducer
from poolagg.testing.resources import check_resource

__all__ = ["LAWS", "LawBroken", "check_reducer", "check_resource"]
