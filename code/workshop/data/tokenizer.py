"""A byte-level BPE tokenizer, trained at first use and then cached.

Byte-pair encoding after Sennrich et al. 2016 (arXiv:1508.07909) over bytes,
as GPT-2 does it, by the library `tokenizers`.  The file in the cache is
named after the corpus and the size, so that a changed corpus gets a new one.
"""

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from workshop import paths
from workshop.data.corpus import Corpus
from workshop.errors import UserError

END_OF_TEXT = "<|endoftext|>"
BYTES = 256
CACHED = "v2"  # of how a corpus is split and encoded: names what is cached


@dataclass(frozen=True)
class TrainedTokenizer:
    """A tokenizer with its file and the file's SHA-256."""

    tokenizer: Tokenizer
    path: Path
    sha256: str

    @property
    def vocabulary(self) -> int:
        """The number of entries; ids lie below it."""
        return self.tokenizer.get_vocab_size()

    @property
    def end_of_text(self) -> int:
        """The id that ends each document."""
        return self.tokenizer.token_to_id(END_OF_TEXT)


def tokenizer_for(
    corpus: Corpus, vocabulary: int, show: bool = False
) -> TrainedTokenizer:
    """Return the tokenizer of `corpus`, training it where none is cached.

    `vocabulary` is the largest number of entries: all bytes, the end of a
    document, and merges; a small corpus may yield fewer.  Of several
    processes that ask at once, one trains and the others wait for its file.
    `show=True` says so, and draws a progress bar on a terminal.

    Raises `UserError` when `vocabulary` is too small or the cached file is
    damaged.
    """
    if vocabulary <= BYTES:
        raise UserError(
            f"a vocabulary of {vocabulary} cannot hold the {BYTES} bytes "
            f"and the end of a document: ask for {BYTES + 1} or more"
        )
    name = f"{corpus.sha256[:16]}-{vocabulary}-{CACHED}.json"
    path = paths.cache() / "tokenizers" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            trained = _train(corpus, vocabulary, show)
            with whole_file(path) as file:
                file.write(trained.to_str().encode())
    content = path.read_bytes()
    try:
        tokenizer = Tokenizer.from_str(content.decode())
    except Exception:  # noqa: BLE001  (the library raises bare Exception)
        raise UserError(
            f"the cached tokenizer {path} is damaged: delete it, and the "
            "next run trains it again"
        ) from None
    # A text that has <|endoftext|> in it does not end there.
    tokenizer.encode_special_tokens = True
    digest = hashlib.sha256(content).hexdigest()
    return TrainedTokenizer(tokenizer, path, digest)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that appears as `path` once the block has written it.

    Raises `UserError`, and leaves nothing, when there is no room for it.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}): make "
            "room, or let WORKSHOP_CACHE name another folder"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def _train(corpus: Corpus, vocabulary: int, show: bool) -> Tokenizer:
    if show:
        print(
            f"training a tokenizer of {vocabulary:,} entries on the corpus "
            f"{corpus.name}; it is kept in {paths.cache()}",
            file=sys.stderr,
            flush=True,
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        # The library hands the alphabet over as a set: without the sort the
        # ids of bytes would change from run to run.
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=show and Console(stderr=True).is_terminal,
    )
    tokenizer.train_from_iterator(
        corpus.training, trainer, length=len(corpus.training)
    )
    return tokenizer
