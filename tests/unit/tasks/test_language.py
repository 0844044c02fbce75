"""Texts: what is read of files, the pieces that networks get, and what is measured of them."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nastool.core.errors import InputError, TrialFailed
from nastool.core.files import Limit
from nastool.core.recipe import Recipe, Text
from nastool.tasks.language import batches as pieces
from nastool.tasks.language import floors, text
from nastool.tasks.language.batches import IGNORED, TextBatches
from nastool.tasks.language.data import TextData
from nastool.tasks.language.task import LanguageTask
from nastool.tasks.tensors import PARTS

pytestmark = pytest.mark.usefixtures("one_thread")


def written(folder: Path, **parts: str | bytes) -> str:
    """A data set of such files: train="a b" writes train.txt."""
    for part, content in parts.items():
        (folder / f"{part}.txt").write_bytes(content.encode() if isinstance(content, str) else content)
    return f"text:{folder}"


def words_of(data: TextData, part: Any) -> list[str]:
    (tokens,) = data.arrays(part) or ()
    return [data.vocabulary.words[i] for i in tokens]


# --- reading


def test_a_line_ends_in_eos_and_words_that_training_lacks_are_unknown(tmp_path: Path) -> None:
    given = written(tmp_path, train="a b a\n\nb <unk> \n", valid="b c", test="a\td\r\n")
    data = LanguageTask.load(given)
    assert words_of(data, "train") == ["a", "b", "a", "<eos>", "<eos>", "b", "<unk>", "<eos>"]
    assert words_of(data, "val") == ["b", "<unk>", "<eos>"]
    assert words_of(data, "test") == ["a", "<unk>", "<eos>"]
    assert data.task == LanguageTask(4) and data.metadata() == {"words": data.vocabulary.words}
    facts = data.describe()
    assert (facts["train_tokens"], facts["val_tokens"], facts["test_tokens"]) == (8, 3, 3)
    assert "1 empty lines count as <eos> each" in str(facts["read"])


def test_characters_have_one_for_each_blank_and_end_of_line(tmp_path: Path) -> None:
    written(tmp_path, train=" ab a \nbé é", valid="a \n", test="aXb")
    data = LanguageTask.load(f"chars:{tmp_path}")
    assert "".join(words_of(data, "train")) == "ab a\nbé é\n" and "".join(words_of(data, "val")) == "a\n"
    assert "".join(words_of(data, "test")) == "ab\n", "there is no <unk>"
    assert data.task.unit == "char" and data.task.vocabulary == 5
    assert "1 test tokens are not in the training text and left out" in str(data.describe()["read"])


def test_a_text_that_was_not_prepared_gets_mikolovs_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frequent words that come more than once; the others are <unk>."""
    monkeypatch.setattr(text, "MOST_WORDS", 5)
    data = LanguageTask.load(written(tmp_path, train="a a a b b b c c d d e\n", valid="a d e f\n", test="a\n"))
    assert data.vocabulary.words == ("<eos>", "a", "b", "c", "<unk>")
    assert words_of(data, "val") == ["a", "<unk>", "<unk>", "<unk>", "<eos>"]
    assert "2 rare ones count as <unk>" in str(data.describe()["read"])


def test_a_text_of_one_file_is_cut_at_ends_of_lines(tmp_path: Path) -> None:
    (tmp_path / "book").write_text("a b\n" * 95 + "b a\n" * 5)
    data = LanguageTask.load(f"text:{tmp_path / 'book'}")
    sizes = [len(words_of(data, part)) for part in ("train", "val", "test")]
    assert sizes == [243, 27, 30] and words_of(data, "test")[-3:] == ["b", "a", "<eos>"]
    assert "no validation text, so it is the end of the training text" in str(data.describe()["read"])
    other = LanguageTask.load(f"text:{tmp_path / 'book'}", val_fraction=0.5)
    assert words_of(other, "test") == words_of(data, "test") and len(words_of(other, "val")) == 135
    less = LanguageTask.load(f"text:{tmp_path / 'book'}", train_size=10, all_data=True)
    assert words_of(less, "train") == words_of(data, "train")[:10] and not words_of(less, "val")
    assert less.vocabulary == data.vocabulary


def test_the_files_of_a_folder_are_known_by_the_words_of_their_names(tmp_path: Path) -> None:
    for name in ("wiki.train.tokens", "wiki.valid.tokens", "README.md", ".train.txt", "retrain.txt"):
        (tmp_path / name).write_text("a a b b\n")
    assert text.files_in(tmp_path) == {
        "train": tmp_path / "wiki.train.tokens",
        "val": tmp_path / "wiki.valid.tokens",
    }
    (tmp_path / "char.train.txt").write_text("a")
    with pytest.raises(
        InputError, match=r"char.train.txt and wiki.train.tokens are both for train.* call .* train.txt"
    ):
        text.files_in(tmp_path)
    (tmp_path / "train.txt").write_text("a")
    assert text.files_in(tmp_path)["train"] == tmp_path / "train.txt"


@pytest.mark.parametrize("unit", ["word", "char"])
def test_a_file_is_read_in_chunks_as_it_would_be_at_once(
    unit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = "\ufeff" + "äöü  aé \r\n \n  b\u2003c\n" * 20 + "end  "
    path = tmp_path / "a.txt"
    path.write_bytes(content.encode())
    found = []
    for size in (1, 7, 1 << 22):
        monkeypatch.setattr(text, "_CHUNK", size)
        reader = text.Reader(unit)
        tokens = reader.file(path)
        found.append([reader.words[i] for i in tokens])
    assert found[0] == found[1] == found[2]
    end = text.ENDS[unit]
    if unit == "word":
        assert found[0][:8] == ["äöü", "aé", end, end, "b", "c", end, "äöü"] and found[0][-2:] == ["end", end]
    else:
        assert "".join(found[0]).startswith("äöü  aé\n\nb\u2003c\n") and "".join(found[0]).endswith("\nend\n")


BAD: dict[str, tuple[dict[str, str | bytes], str]] = {
    "no text": ({"README": "a"}, "has no train.txt: need that, and valid.txt .* found README.txt"),
    "empty": ({"train": "a b\na b\n", "valid": ""}, "valid.txt is empty: give a text"),
    "blank": ({"train": "  \t"}, "train.txt is empty: give a text"),
    "one word": ({"train": "a a\na a\n" * 9}, "too few words that come twice"),
    "never twice": ({"train": "a b c\nd e f\ng h\n"}, "too few words that come twice"),
    "binary": ({"train": b"a b\nc\0d"}, "train.txt, line 2: holds a NUL character, so it is no text"),
    "latin-1": ({"train": "a b\nc \xe9 d".encode("latin-1")}, "train.txt, line 2: no UTF-8: save it as UTF-8"),
    "cut UTF-8": ({"train": "a b é".encode()[:-1]}, "train.txt, line 1: no UTF-8"),
    "no blanks": ({"train": "a\n" + "x" * 20_000}, "train.txt, line 2: 10,000 characters without a blank"),
    "a word": ({"train": "a\n" + "x" * 10_001 + " a\nb"}, "train.txt, line 2: 10,000 characters without a blank"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_text_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, message = BAD[name]
    for size in (1000, text._CHUNK):
        monkeypatch.setattr(text, "_CHUNK", size)
        with pytest.raises(InputError, match=message) as error:
            LanguageTask.load(written(tmp_path, **parts))
        assert "\n" not in str(error.value)


def test_options_that_do_not_go_with_a_text(tmp_path: Path) -> None:
    given = written(tmp_path, train="a b\n" * 9, valid="a b")
    with pytest.raises(InputError, match="brings its own validation text: leave out val_fraction"):
        LanguageTask.load(given, val_fraction=0.2)
    with pytest.raises(InputError, match="need train_size <= 24 "):
        LanguageTask.load(given, train_size=1000)
    with pytest.raises(InputError, match=r"cannot read .*nothing"):
        LanguageTask.load(f"text:{tmp_path / 'nothing'}")


def test_a_line_without_end_takes_no_more_memory_than_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused while it is read, before it is all in memory."""
    monkeypatch.setattr(text, "_CHUNK", 1 << 16)
    path = tmp_path / "train.txt"
    path.write_bytes(b"word of it " * 100_000)
    reader = text.Reader("word", Limit(0.0005))
    pieces_of = reader._pieces
    seen = []

    def watched(*given: Any) -> Any:
        for one in pieces_of(*given):
            seen.append(one)
            yield one

    monkeypatch.setattr(reader, "_pieces", watched)
    with pytest.raises(
        InputError, match=r"train.txt takes 4.8 MB of memory, more than the 0.5 MB allowed: .* give -E "
    ):
        reader.file(path)
    assert len(seen) == 1


def test_the_made_up_text_is_always_the_same() -> None:
    assert LanguageTask.load("sentences").fingerprint == "760a36af"
    assert LanguageTask.load("sentences-chars").fingerprint == "15ba9cd0"


# --- floors


def test_pairs_of_words_by_hand(tmp_path: Path) -> None:
    """Kneser-Ney's own example: a word that comes often, but after one other alone, is no likely one elsewhere."""
    lines = "san francisco\n" * 3 + "a glass\nthe glass\n<unk> a\n"
    data = LanguageTask.load(written(tmp_path, train=lines, valid="the\n", test="a\n"))
    (train,), (val,) = data.arrays("train") or (), data.arrays("val") or ()
    size, end = data.task.vocabulary, data.vocabulary.end
    assert floors.unigram(train, val, size) == pytest.approx(-(math.log(1 / 18) + math.log(6 / 18)) / 2)
    the = 0.25 / 6 + 0.75 * 4 / 6 * 1 / 11  # after the end of a line, once of 6 times, four words come; 11 pairs differ
    eos = 0.75 * 3 / 11  # never after "the", but after three words
    loss = floors.bigram(train, val, size, end)
    assert loss == pytest.approx(-(math.log(the) + math.log(eos)) / 2)
    assert data.describe()["bigram_ppl"] == round(math.exp(loss), 3)


PUBLISHED = {
    "text": ((929_589, 73_760, 82_430), 10_000, (687.0, 639.3), (201.8, 186.5)),
    "chars": ((5_017_482, 393_042, 442_423), 50, None, None),
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_the_penn_treebank_has_the_published_numbers(kind: str, tmp_path: Path, benchmark_data: Path) -> None:
    """Kneser-Ney pairs on the validation text reach 201.0, not 201.8: the training text's first word, which comes ten
    times there, follows something, the end of a line, which stands before a text here."""
    with zipfile.ZipFile(benchmark_data / "ptb" / "ptb.zip") as archive:
        archive.extractall(tmp_path)
    data = LanguageTask.load(f"{kind}:{tmp_path}")
    train, val, test = ((data.arrays(part) or ())[0] for part in PARTS)
    sizes, vocabulary, unigram, bigram = PUBLISHED[kind]
    assert (len(train), len(val), len(test)) == sizes and data.task.vocabulary == vocabulary
    if unigram and bigram:
        found = [math.exp(floors.unigram(train, part, vocabulary)) for part in (val, test)]
        assert found == pytest.approx(unigram, abs=0.05)
        found = [math.exp(floors.bigram(train, part, vocabulary, data.vocabulary.end)) for part in (val, test)]
        assert found == pytest.approx(bigram, rel=0.005)


# --- pieces


def numbered(n: int) -> TextBatches:
    """The text 0, 1, 2, ..., so that each token is said by its predecessor."""
    return TextBatches(torch.arange(n, dtype=torch.int32), -1)


def test_training_goes_on_from_batch_to_batch() -> None:
    batches, recipe = numbered(1000), Recipe(batch_size=4)
    found = list(batches.train(recipe, torch.Generator()))
    assert len(found) == batches.steps(recipe) == 8
    assert [read.shape for read, _ in found] == [(4, 35)] * 7 + [(4, 5)]
    read, said = (torch.cat(each, 1) for each in zip(*found, strict=True))
    assert torch.equal(said, 250 * torch.arange(4)[:, None] + torch.arange(250)) and torch.equal(read + 1, said)
    with pytest.raises(InputError, match=r"100 training tokens are 25 in each of 4 streams, fewer than .* bptt of 35"):
        numbered(100).steps(recipe)


@pytest.mark.parametrize("n", [1, 50, 1023, 2048, 9999])
@pytest.mark.parametrize("parts", [1, 3])
def test_each_token_is_measured_once_after_enough_others(n: int, parts: int) -> None:
    found = list(numbered(n).in_order(parts=parts))
    read, said = (torch.cat(each, 1) for each in zip(*found, strict=True))
    counts = said != IGNORED
    assert said[counts].sort().values.tolist() == list(range(n))
    assert torch.equal((read + 1)[counts], said[counts])
    if n > 2000:
        assert len(read) > 1 and not counts[1:, : pieces.WARM_UP].any() and counts[0, : pieces.WARM_UP].all()
    else:
        assert len(read) == 1


def test_minibatches_are_pieces_in_another_order_each_time() -> None:
    batches = numbered(1000)
    stream = batches.minibatches(8, torch.Generator().manual_seed(0))
    found = [next(stream) for _ in range(6)]
    for read, said in found:
        assert read.shape == (8, 45) and (said[:, :10] == IGNORED).all() and torch.equal(said[:, 10:], read[:, 10:] + 1)
    starts = [int(read[0, 0]) for read, _ in found]
    assert len(set(starts)) == 6
    read, said = batches.some(5, torch.Generator().manual_seed(0))
    assert read.shape == (5, 45)
    (read, said) = next(numbered(20).minibatches(8, torch.Generator()))
    assert read.shape == (1, 20) and (said != IGNORED).all()


# --- measuring


class Recurrent(nn.Module):
    """A small LSTM whose state is a tuple."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(vocabulary, 16)
        self.cell = nn.LSTM(16, 16, batch_first=True)
        self.out = nn.Linear(16, vocabulary)
        nn.init.normal_(self.out.weight, std=2)

    def forward(self, tokens: Tensor, state: Any = None) -> Any:
        if state is not None:
            state = tuple(each.transpose(0, 1).contiguous() for each in state)
        found, last = self.cell(self.embedding(tokens), state)
        return self.out(found), tuple(each.transpose(0, 1) for each in last)


@pytest.fixture(scope="module")
def sentences() -> TextData:
    return LanguageTask.load("sentences")


@torch.inference_mode()
def test_measuring_in_pieces_is_measuring_one_long_sequence(sentences: TextData, monkeypatch: Any) -> None:
    """To 1e-6 with one stream, however it is cut; to 1e-5 with several, by the tokens that are read before."""
    task, network = sentences.task, Recurrent(sentences.task.vocabulary).double()
    batches = sentences.batches("val", torch.device("cpu"))
    monkeypatch.setattr(pieces, "AT_ONCE", 1 << 30)
    (whole,) = batches.in_order(1)
    logits, _ = network(whole[0])
    loss = float(nn.functional.cross_entropy(logits.flatten(0, 1).float(), whole[1].flatten()))
    assert whole[0].shape == (1, len(batches))
    for at_once, streams, bound in ((100, 1, 1e-6), (4096, 1, 1e-6), (4096, 64, 1e-5)):
        monkeypatch.setattr(pieces, "AT_ONCE", at_once)
        found = task.measure(network, batches.in_order(streams))
        assert found["loss"] == pytest.approx(loss, rel=bound) and found["ppl"] == pytest.approx(math.exp(loss), 1e-4)
    monkeypatch.setattr(pieces, "AT_ONCE", 35)
    forgetful = [task.measure(network, [batch])["loss"] * batch[0].numel() for batch in batches.in_order(1)]
    assert abs(sum(forgetful) / len(batches) - loss) > 1e-4 * loss, "the state matters"


@torch.inference_mode()
def test_the_mean_of_one_network_is_that_network(sentences: TextData) -> None:
    task, network = sentences.task, Recurrent(sentences.task.vocabulary)
    batches = sentences.batches("val", torch.device("cpu"))
    one, other = (task.predict(network, batches.in_order(parts=parts)) for parts in (1, 2))
    assert torch.allclose(one, other, atol=1e-5) and one.shape == (len(batches),)
    measured = task.measure(network, batches.in_order())
    assert task.measure_mean([one, other], batches) == pytest.approx(measured, rel=1e-5)


@torch.inference_mode()
def test_rewards_are_the_inverse_of_perplexity(sentences: TextData) -> None:
    task, network = sentences.task, Recurrent(sentences.task.vocabulary)
    batch = sentences.batches("val", torch.device("cpu")).some(4, torch.Generator().manual_seed(0))
    outputs = network(*task.inputs(batch))
    (found,) = task.rewards([outputs], batch).tolist()
    assert found == pytest.approx(80 / task.measure(network, [batch])["ppl"], rel=1e-5)


def test_lengths_vary_by_the_generator_and_the_learning_rate_with_them(sentences: TextData) -> None:
    batches, recipe = numbered(4000), Recipe(batch_size=4, text=Text(bptt=20, varying=True))
    found = [list(batches.train(recipe, torch.Generator().manual_seed(seed))) for seed in (0, 0, 1)]
    lengths = [[read.shape[1] for read, _ in epoch] for epoch in found]
    assert lengths[0] == lengths[1] != lengths[2] and len(set(lengths[0])) > 5
    for epoch in found:
        assert len(epoch) == batches.steps(recipe) and sum(lengths[0]) == 1000
    tokens = torch.zeros(2, 15, dtype=torch.long)
    assert LanguageTask(4).step(Recurrent(4), (tokens, tokens), None, recipe).rate == 15 / 20


def test_activations_are_regularised_as_the_recipe_says() -> None:
    tokens = torch.zeros(1, 2, dtype=torch.long)
    raw, dropped = torch.tensor([[[1.0], [4.0]]]), torch.tensor([[[0.0], [8.0]]])

    def extra(**given: Any) -> float:
        recipe = Recipe(text=Text(**given))
        found = LanguageTask(4).step(
            lambda *_: (torch.zeros(1, 2, 4), None, (raw, dropped)), (tokens, tokens), None, recipe
        )
        return 0.0 if found.extra is None else float(found.extra)

    assert extra() == 0
    assert extra(activation=2) == 2 * 64 / 2 and extra(activation=2, undropped=True) == pytest.approx(2 * 17 / 2)
    assert extra(slowness=3) == 3 * 9 and extra(activation=1, slowness=1) == 32 + 9


def test_characters_are_measured_in_bits() -> None:
    task = LanguageTask(4, "char")
    said = torch.tensor([[0, 3, IGNORED]])
    found = task.measure(lambda read, state: (torch.zeros(1, 3, 4), None), [(said, said)])
    assert found == pytest.approx({"bpc": 2, "loss": math.log(4)})
    assert LanguageTask.goals("chars:a")[1] == "bpc" and LanguageTask.goals("text:a")[1] == "ppl"


def test_a_network_that_is_none_for_texts_is_named() -> None:
    task, tokens = LanguageTask(4), torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(TrialFailed, match="returns a Tensor, not a pair: return its logits and its state"):
        task.step(lambda *_: torch.zeros(2, 3, 4), (tokens, tokens), None, Recipe())
    with pytest.raises(TrialFailed, match=r"logits of shape \(2, 4\): they are \(N, T, 4\), task.vocabulary wide"):
        task.step(lambda *_: (torch.zeros(2, 4), None), (tokens, tokens), None, Recipe())


def test_the_state_is_carried_without_gradient() -> None:
    task, tokens = LanguageTask(4), torch.zeros(2, 3, dtype=torch.long)
    step = task.step(Recurrent(4), (tokens, tokens), None, Recipe())
    carry: Any = step.carry
    assert step.loss.requires_grad and [each.requires_grad for each in carry] == [False, False]
    assert [each.shape[0] for each in carry] == [2, 2]


def test_sizes_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="vocabulary from 2"):
        LanguageTask(1)
    with pytest.raises(ValueError, match="unit word or char"):
        LanguageTask(2, "line")  # type: ignore[arg-type]
    assert str(LanguageTask(10_000)) == "texts of 10,000 different words"
    assert np.isclose(LanguageTask(3).named(1000.0)["ppl"], math.exp(30))  # 14 digits, not 305
