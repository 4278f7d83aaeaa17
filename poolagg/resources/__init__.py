"""Resources that can commit: a database or a file of yours that gets each partial exactly once, whatever dies.

A run into a resource stores its ledger there: which items are in it, and the digest of the input. Each commit is atomic
for partials and ledger. After an error, Ctrl-C or `kill -9` of all processes, repeat the call: it continues from the
last commit.
"""

from poolagg.resources.database import IntoDatabase
from poolagg.resources.file import IntoFile
from poolagg.resources.resource import Resource

__all__ = ["IntoDatabase", "IntoFile", "Resource"]
