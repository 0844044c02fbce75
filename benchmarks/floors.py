"""What there is in a text, and what models without a memory reach on it.

    python benchmarks/floors.py DATA...

DATA: as --data has it, text:DIR, chars:DIR or sentences. Prints tokens and vocabulary, and for the validation and the
test text perplexity and bits of frequencies (unigram) and of interpolated Kneser-Ney pairs (bigram, discount .75). A
network that is above the bigram has learnt no state. Of the Penn Treebank, Mikolov's preparation, by words: unigram
687.0 and 639.3, bigram 201.0 and 186.5. (201.8 is without anything before the text: then its very first word, which
training has once and the validation text ten times, continues nothing, and its probability is some floor, there 1e-18.)
"""

from __future__ import annotations

import math
import sys

from nastool.tasks.language import floors
from nastool.tasks.language.task import LanguageTask


def main() -> None:
    if not sys.argv[1:]:
        sys.exit(__doc__)
    for name in sys.argv[1:]:
        data = LanguageTask.load(name)
        size = data.task.vocabulary
        (train,), (val,), (test,) = (data.arrays(part) or () for part in ("train", "val", "test"))
        print(f"{name}: vocabulary {size:,}, tokens {len(train):,} / {len(val):,} / {len(test):,}")
        for part, tokens in (("validation", val), ("test", test)):
            unigram = floors.unigram(train, tokens, size)
            bigram = floors.bigram(train, tokens, size, data.vocabulary.end)
            said = [
                f"{n} {math.exp(x):.1f} ({x / math.log(2):.3f} bits)"
                for n, x in (("unigram", unigram), ("bigram", bigram))
            ]
            print(f"  {part}: {', '.join(said)}")


if __name__ == "__main__":
    main()
