"""Where partials meet: in the parent as they arrive, in input order, inside each worker, or in a fixed tree.

    strategy      partials meet                        a lane ships                 the parent
    Stream()      in the parent, as they arrive        prepared partials            steps
    Ordered()     in the parent, in input order        prepared partials            steps, in input order
    Combine()     inside each worker, across chunks    its accumulator              merges
    Partition(n)  so, and parts of the keys in each    its accumulator in n parts   puts disjoint parts together
    Tree()        in aligned pairs of fixed leaves     subtrees of its chunk        merges aligned neighbours

A strategy is a small pure object with two halves: `gather` makes the half that runs beside `func` and turns prepared
partials into payloads, `folding` the half that folds payloads into the result. Subclass `Strategy` to write another.
"""

from typing import TYPE_CHECKING

from poolagg._lazily import lazily

if TYPE_CHECKING:
    from poolagg.strategies._combine import Combine as Combine
    from poolagg.strategies._combine import Partition as Partition
    from poolagg.strategies._strategy import Errand as Errand
    from poolagg.strategies._strategy import Folding as Folding
    from poolagg.strategies._strategy import Gather as Gather
    from poolagg.strategies._strategy import Strategy as Strategy
    from poolagg.strategies._stream import Ordered as Ordered
    from poolagg.strategies._stream import Stream as Stream
    from poolagg.strategies._tree import Tree as Tree
else:
    __getattr__, __dir__, __all__ = lazily(
        __name__,
        unlisted="Errand",
        _combine="Combine Partition",
        _strategy="Errand Folding Gather Strategy",
        _stream="Ordered Stream",
        _tree="Tree",
    )
