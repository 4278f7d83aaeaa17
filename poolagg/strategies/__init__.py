"""Strategies decide where partials meet: in the parent, inside each worker, or in a fixed tree.

    strategy      partials meet                        a worker flushes             the parent
    Stream()      in the parent, as they arrive        prepared partials            steps
    Ordered()     in the parent, in input order        prepared partials            steps, in input order
    Combine()     inside each worker, across chunks    its accumulator              merges
    Partition(n)  the same, with keys in n parts       its accumulator in n parts   joins disjoint parts
    Tree()        in aligned pairs of fixed leaves     subtrees of its chunk        merges aligned neighbours

A strategy is a small pure object that makes two halves. The `worker_fold` runs next to `func` and turns prepared
partials into partial states; the `parent_fold` folds these into the result. To write another strategy, subclass
`Strategy`.
"""

from typing import TYPE_CHECKING

from poolagg._runtime.lazy_imports import lazily

if TYPE_CHECKING:
    from poolagg.strategies.combine import Combine as Combine
    from poolagg.strategies.combine import Partition as Partition
    from poolagg.strategies.strategy import FinalStage as FinalStage
    from poolagg.strategies.strategy import ParentFold as ParentFold
    from poolagg.strategies.strategy import Strategy as Strategy
    from poolagg.strategies.strategy import WorkerFold as WorkerFold
    from poolagg.strategies.stream import Ordered as Ordered
    from poolagg.strategies.stream import Stream as Stream
    from poolagg.strategies.tree import Tree as Tree
else:
    __getattr__, __dir__, __all__ = lazily(
        __name__,
        unlisted="FinalStage",
        combine="Combine Partition",
        strategy="FinalStage ParentFold WorkerFold Strategy",
        stream="Ordered Stream",
        tree="Tree",
    )
