"""Does what you wrote keep its laws? A reducer: `check_reducer`. A resource that commits: `check_resource`."""

from poolagg.testing._laws import LawBroken
from poolagg.testing._reducers import LAWS, check_reducer
from poolagg.testing._resources import check_resource

__all__ = ["LAWS", "LawBroken", "check_reducer", "check_resource"]
