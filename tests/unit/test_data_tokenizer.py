"""The tokenizer: lossless, cached, trained once, safe among processes."""

import multiprocessing
import os
import resource

import numpy as np
import pytest

from workshop.data.corpus import Corpus, load_corpus
from workshop.data.tokenizer import END_OF_TEXT, tokenizer_for
from workshop.data.tokens import encoded
from workshop.errors import UserError

TEXTS = ("def f(x):\n    return x\n" * 40, "for i in range(9):\n" * 60)
CORPUS = Corpus("test", TEXTS, ("held out: def g()",), "0123456789abcdef" * 4)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKSHOP_CACHE", str(tmp_path))
    return tmp_path / "tokenizers"


@pytest.mark.parametrize("text", ["def f():\n\tπ = 3", "", "日本 \x7f 🙂"])
def test_every_text_comes_back(text):
    trained = tokenizer_for(CORPUS, 300)
    ids = trained.tokenizer.encode(text).ids
    assert trained.tokenizer.decode(ids) == text
    assert all(i < trained.vocabulary for i in ids)


def test_it_is_trained_once(cache):
    first = tokenizer_for(CORPUS, 300)
    written = first.path.stat().st_mtime_ns
    again = tokenizer_for(CORPUS, 300)
    assert again.sha256 == first.sha256
    assert first.path.stat().st_mtime_ns == written
    assert tokenizer_for(CORPUS, 280).path != first.path
    assert not list(cache.glob("*.partial"))


def test_two_trainings_give_the_same_file():
    first = tokenizer_for(CORPUS, 300)
    first.path.unlink()
    assert tokenizer_for(CORPUS, 300).sha256 == first.sha256


@pytest.mark.parametrize("room", [0, 500, 12_000])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(cache, room):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = Corpus("big", (TEXTS[0] * 200,), ("a",), "fedcba9876543210" * 4)
    with pytest.raises(UserError, match="cannot be written .*WORKSHOP_CACHE"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        try:
            encoded(big, tokenizer_for(big, 300))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(list(cache.glob("*.json"))) == (room == 12_000)
    assert not list(cache.glob("*.npy")) + list(cache.glob("*.partial"))


def _race(start, results):
    start.wait()
    corpus = load_corpus(mib=0.1)
    trained = tokenizer_for(corpus, 400)
    training, _ = encoded(corpus, trained)
    results.put((trained.sha256, len(training), os.getpid()))


def test_processes_that_start_at_once_agree(cache):
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    processes = [
        context.Process(target=_race, args=(start, results)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    start.set()
    seen = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert len({(sha, count) for sha, count, _ in seen}) == 1
    assert len({pid for *_, pid in seen}) == 3
    assert len(list(cache.glob("*.json"))) == 1
    assert len(list(cache.glob("*.npy"))) == 2


def test_the_tokens_are_the_documents_with_their_ends():
    trained = tokenizer_for(CORPUS, 300)
    training, held_out = encoded(CORPUS, trained)
    assert training.dtype == np.uint16 and isinstance(training, np.memmap)
    text = trained.tokenizer.decode(
        training.tolist(), skip_special_tokens=False
    )
    assert text == "".join(t + END_OF_TEXT for t in TEXTS)
    assert held_out[-1] == trained.end_of_text
    again, _ = encoded(CORPUS, trained)
    assert np.array_equal(again, training)


def test_only_the_end_of_a_document_is_the_boundary():
    """The text of the token inside a document is text like any other."""
    texts = (f"see {END_OF_TEXT} here", END_OF_TEXT, "plain")
    corpus = Corpus("test", texts, (END_OF_TEXT * 2,), "f" * 64)
    trained = tokenizer_for(corpus, 300)
    training, held_out = encoded(corpus, trained)
    assert list(training).count(trained.end_of_text) == len(texts)
    assert list(held_out).count(trained.end_of_text) == 1
    pieces, start = [], 0
    for end in np.flatnonzero(training == trained.end_of_text):
        ids = training[start:end].tolist()
        pieces.append(trained.tokenizer.decode(ids))
        start = end + 1
    assert pieces == list(texts)


def test_a_vocabulary_below_the_bytes_is_refused():
    with pytest.raises(UserError, match="vocabulary of 256 cannot hold"):
        tokenizer_for(CORPUS, 256)


def test_a_damaged_file_is_named():
    path = tokenizer_for(CORPUS, 300).path
    path.write_text(path.read_text()[:100])
    with pytest.raises(UserError, match=f"{path.name} is damaged"):
        tokenizer_for(CORPUS, 300)
