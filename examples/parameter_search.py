"""Which parameters fit best? `with_item` keeps the input beside its score, `Max` and `Top` keep the best of them."""

import itertools
import math
import random
from operator import itemgetter

from poolagg import Count, Max, Mean, Top, aggregate, star, with_item

source = random.Random(7)
OBSERVED = [(t, 2.5 * math.exp(-0.7 * t) + source.gauss(0, 0.02)) for t in [i / 20 for i in range(60)]]


def fit(amplitude, decay):
    """The work, in a worker process: minus the squared error of a model with these parameters."""
    return -sum((amplitude * math.exp(-decay * t) - y) ** 2 for t, y in OBSERVED)


amplitudes = [a / 20 for a in range(1, 81)]
decays = [d / 50 for d in range(1, 101)]
score = itemgetter(1)

found = aggregate(
    with_item(star(fit)),
    itertools.product(amplitudes, decays),
    {
        "tried": Count(),
        "best": Max(key=score),
        "top": Top(5, key=score),
        "mean error": Mean().of(lambda pair: -pair[1]),
    },
)

(amplitude, decay), best = found["best"]
print(f"tried {found['tried']:,} pairs, mean error {found['mean error']:.1f}")
print(f"best: {amplitude} * exp(-{decay} t), error {-best:.4f}   (the data: 2.5 * exp(-0.7 t), and noise)")
print("the next best:")
for (amplitude, decay), value in found["top"][1:]:
    print(f"  {amplitude:.2f}  {decay:.2f}  error {-value:.4f}")
