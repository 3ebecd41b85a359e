"""The corpus as token ids: encoded once, then mapped from a file."""

from collections.abc import Sequence

import numpy as np
from filelock import FileLock
from rich.console import Console
from rich.progress import track

from workshop.data.corpus import Corpus
from workshop.data.tokenizer import TrainedTokenizer, whole_file

DOCUMENTS_AT_ONCE = 64


def encoded(
    corpus: Corpus, trained: TrainedTokenizer, show: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return the training and the held-out tokens, each of shape (n,).

    Documents stand one after another, each ended by the end-of-text id.
    The arrays are maps of files beside the tokenizer, uint16 where the
    vocabulary allows it and int32 elsewhere; the first call writes them.
    `show=True` draws a progress bar on a terminal.
    """
    return (
        _mapped("training", corpus.training, trained, show),
        _mapped("held-out", corpus.held_out, trained, show),
    )


def _mapped(
    part: str, documents: Sequence[str], trained: TrainedTokenizer, show: bool
) -> np.ndarray:
    # The tokenizer's hash names what was encoded: its file name holds the
    # corpus, and a tokenizer trained anew must not meet old tokens.
    stem = f"{trained.path.stem}-{trained.sha256[:16]}-{part}.npy"
    path = trained.path.with_name(stem)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            tokens = encode(documents, trained, show, part)
            with whole_file(path) as file:
                np.save(file, tokens)
    return np.load(path, mmap_mode="r")


def encode(
    documents: Sequence[str],
    trained: TrainedTokenizer,
    show: bool = False,
    part: str = "training",
) -> np.ndarray:
    """Encode documents into one array of ids, each ended by end-of-text."""
    dtype = np.uint16 if trained.vocabulary <= 2**16 else np.int32
    pieces, console = [], Console(stderr=True)
    for start in track(
        range(0, len(documents), DOCUMENTS_AT_ONCE),
        description=f"encoding the {part} documents",
        console=console,
        disable=not (show and console.is_terminal),
    ):
        batch = list(documents[start : start + DOCUMENTS_AT_ONCE])
        for encoding in trained.tokenizer.encode_batch(batch):
            ids = [*encoding.ids, trained.end_of_text]
            pieces.append(np.array(ids, dtype=dtype))
    return np.concatenate(pieces)
