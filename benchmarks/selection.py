"""CPU time and peak memory of each selector: python benchmarks/selection.py [MEMBERS SAMPLES CLASSES SIZE].

Predictions are float16, as searches store them, of networks of several accuracies; by default 1,000 members, 10,000
samples of 100 classes, and 10 to take.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np

from nastool.ensembles.selection import SELECTORS


def main(members: int = 1000, samples: int = 10_000, classes: int = 100, size: int = 10) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=samples)
    probabilities = np.empty((members, samples, classes), np.float16)
    for each in probabilities:
        logits = rng.standard_normal((samples, classes), np.float32)
        logits[np.arange(samples), labels] += rng.uniform(2, 6)
        powers = np.exp(logits)
        each[:] = powers / powers.sum(-1, keepdims=True)
    print(f"{members} members, {samples} samples, {classes} classes, {probabilities.nbytes / 1e9:.2f} GB; size {size}")
    for name, selector in SELECTORS.items():
        began = time.process_time()
        found = selector(probabilities, labels, size)
        seconds = time.process_time() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        print(f"{name}: {seconds:.2f} s, {len(found.members)} members, peak {peak / 1e9:.2f} GB so far", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
