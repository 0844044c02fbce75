"""DARTS: differentiable architecture search (Liu et al., ICLR 2019, arXiv 1806.09055)."""

from __future__ import annotations

from nastool.learners.differentiable import Differentiable, Sampler


class Softmax(Sampler):
    """The softmax of alpha: every option runs."""


class DARTS(Differentiable):
    """Options are mixed by a softmax, whose logits learn from the validation loss in turns with the weights.

    Settings are those of the authors' code: Adam with learning rate 0.0003, betas .5 and .999, weight decay 0.001,
    logits that begin as normal draws of standard deviation 0.001. Deviations, of which `preset=published` takes back
    the first three:

    - A search with few steps takes a larger learning rate (`lr`).
    - What is derived has few skip connections (`skip_cap`), which take over in the published search on NAS-Bench-201.
    - The weights learn in single architectures at the end (`single`), so that these can be scored.
    - What is found is the best of `candidates`, not the likeliest architecture.
    - In cell-cnn a block has two slots, each with an input that is drawn and a mixture of operations; in the paper
      every earlier state is mixed in, and the two inputs with the largest weights are kept.
    """

    name = "darts"
    sampler = Softmax
