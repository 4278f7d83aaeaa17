"""Resources that can commit: a database or a file of yours that gets every partial once, whatever dies.

A run into a resource keeps its ledger there: which items are in it, and what the input was. Both are committed in one
step. Make the same call again, after an error, Ctrl-C or `kill -9` of everything, and it goes on from the last commit.
"""

from poolagg.resources.database import IntoDatabase
from poolagg.resources.file import IntoFile
from poolagg.resources.resource import Resource

__all__ = ["IntoDatabase", "IntoFile", "Resource"]
