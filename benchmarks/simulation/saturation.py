"""The number of workers from which one parent saturates, by the time of an item and by the size of a worker's state.

A parent saturates where it is busy for 95 % of its time. Its work for a worker is a part for each chunk and a part for
each state that the worker flushes. `expected` computes the number from the measured costs and the scheduler's rules.
`simulated` looks for it with the real scheduler, whose clock alone is simulated; it is used where a few seconds of
such a run hold enough flushes.

An item's time includes the fold of its partial. A worker's time to pack a state is left out: the worker pays for it.
"""

from dataclasses import dataclass, replace
from functools import partial
from math import ceil, inf

from benchmarks.harness.results import standings
from benchmarks.harness.simulated import CONSTANTS, Costs, Job, Simulation, State, in_words
from benchmarks.harness.tables import Cell, Table
from poolagg import Collect, aggregate
from poolagg._scheduler.chunk_sizing import COST_MULTIPLE, PATIENCE, TARGET, UNFLUSHED

ITEMS = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
STATES = (10**3, 10**5, 10**6, 10**7, 10**8)

SATURATED = 0.95
"""The share of its time for which a saturated parent is busy."""

MOST = 10_000
"""The largest number of workers that the table names."""

LONGEST = 10.0
"""The most seconds of a run that are simulated: a saturated parent takes up to as long to simulate."""

STEPS = 3
"""Simulations of a cell: each halves the range, on a logarithmic scale, from 3/4 to 4/3 of what is expected."""


def in_bytes(nbytes):
    """Format a size for people.

    >>> in_bytes(1000), in_bytes(10**8)
    ('1 kB', '100 MB')
    """
    return f"{nbytes // 1000} kB" if nbytes < 10**6 else f"{nbytes // 10**6} MB"


def state_title(nbytes):
    """Return the title of the constant for a state of that size."""
    return f"poolagg's parent: receive and merge an array of {in_bytes(nbytes)}"


def costs_of_states(results, costs):
    """Return the parent's seconds for a state by its size, beyond those for the event; None if one is missing."""
    medians = {one.entrant.name: one.median for one in standings(results, CONSTANTS) if one.times and one.correct}
    if not set(map(state_title, STATES)) <= set(medians):
        return None
    return {nbytes: max(0.0, medians[state_title(nbytes)] - costs.receive) for nbytes in STATES}


@dataclass(frozen=True)
class Place:
    """A place of the table: the seconds of an item, and the parent's seconds for a worker's state."""

    costs: Costs
    item: float
    state: float

    @property
    def chunk(self):
        """Seconds of work in a chunk, which has whole items."""
        return max(1, int(TARGET / (self.item + self.costs.item))) * self.item

    def interval(self, workers):
        """Return the seconds of work between two flushes of a worker, in whole chunks, as the scheduler picks them."""
        cheap = COST_MULTIPLE * self.state * max(1.0, workers / 2)
        return max(1, ceil(min(cheap, UNFLUSHED) / self.chunk)) * self.chunk

    def load(self, workers):
        """Compute the share of its time for which the parent is busy; above 1 it falls behind."""
        event = self.costs.scheduler(workers)
        for_chunks = (self.costs.parent(workers) - event) / self.chunk
        return workers * (for_chunks + (self.state + event) / self.interval(workers))

    def expected(self):
        """Compute the number of workers at which the parent saturates; infinite beyond the table's largest."""
        low, high = 1.0, float(MOST)
        if self.load(high) < SATURATED:
            return inf
        while high / low > 1.001:
            middle = (low * high) ** 0.5
            low, high = (middle, high) if self.load(middle) < SATURATED else (low, middle)
        return high

    def horizon(self, workers):
        """Return the seconds of a run whose second half is steady: the scheduler has learned what a state costs."""
        return max(2.0, 2 * PATIENCE * self.interval(workers))

    def busy(self, workers):
        """Simulate the run with the real scheduler; return the parent's busy share in the second half."""
        horizon = self.horizon(workers)
        state = State(0.0, 0.0, 0.0, 0.0, self.state, self.state)
        job = Job(workers, self.item, horizon=horizon / 2, state=state)
        run = Simulation(job, self.costs).run()
        began, busy = run.now, run.busy
        run.job = replace(job, horizon=horizon)
        run.run()
        return (run.busy - busy) / (run.now - began)

    def simulated(self, longest=LONGEST):
        """Find the number by simulation, near the expected; None where a run would have more than `longest` seconds."""
        around = self.expected()
        if around == inf or self.horizon(around) > longest:
            return None
        low, high = 0.75 * around, around / 0.75
        for _ in range(STEPS):
            middle = (low * high) ** 0.5
            low, high = (middle, high) if self.busy(max(1, round(middle))) < SATURATED else (low, middle)
        return (low * high) ** 0.5


def found(place, longest):
    """Return the number of workers at a place, and whether the scheduler was simulated."""
    workers = place.simulated(longest)
    return (place.expected(), False) if workers is None else (workers, True)


def table_by_state(costs, states, longest=LONGEST):
    """Return the table: a row for each item, a column for each state; a "~" marks what is computed, not simulated."""
    places = [Place(costs, item, state) for item in ITEMS for state in states.values()]
    cells = iter(aggregate(partial(found, longest=longest), places, Collect(), chunksize=1))
    rows = [[Cell(in_words(item), "number"), *(in_workers(*next(cells)) for _ in states)] for item in ITEMS]
    title = (
        f"Workers from which the parent is busy for {SATURATED:.0%} of its time, by an item's time and a state's size "
        "(~: computed from the constants; the others: the real scheduler, simulated)"
    )
    return Table(title, ["an item takes", *(f"states of {in_bytes(nbytes)}" for nbytes in states)], rows)


def in_workers(workers, was_simulated):
    """Format a number of workers, with two digits."""
    if workers == inf:
        return Cell(f">{MOST:,}", "number")
    return Cell(f"{'' if was_simulated else '~'}{int(float(f'{workers:.2g}')):,}", "number")
