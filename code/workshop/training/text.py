"""The text of a run: corpus, tokenizer and tokens, made once and cached."""

from typing import NamedTuple

import numpy as np

from workshop.data.batches import Batches
from workshop.data.corpus import Corpus, load_corpus
from workshop.data.tokenizer import TrainedTokenizer, tokenizer_for
from workshop.data.tokens import encoded
from workshop.errors import UserError
from workshop.job.launch import Job, together
from workshop.layout import Layout
from workshop.models.gpt import CONFIGS

TOKENIZER_OF_TINY = 1024
TOKENIZER = 16384
TINY_MIB = 1.0


class Text(NamedTuple):
    """What a model is trained and judged on; tokens are (n,) each."""

    corpus: Corpus
    tokenizer: TrainedTokenizer
    training: np.ndarray
    held_out: np.ndarray

    def batches(
        self, sequence: int, layout: Layout, dp: int, seed: int
    ) -> list[Batches]:
        """Return the batches of training and of evaluation.

        `dp` is the data parallel index.  Raises `UserError` on all ranks
        when there is not one whole sequence.
        """
        return [
            together(
                lambda tokens=tokens: Batches.of_layout(
                    tokens, sequence, layout, dp, seed
                )
            )
            for tokens in (self.training, self.held_out)
        ]

    def described(self) -> dict[str, object]:
        """Return what a record says of it."""
        return {
            "corpus_sha256": self.corpus.sha256,
            "tokenizer_sha256": self.tokenizer.sha256,
            "tokens_in_corpus": len(self.training),
        }


def default_vocabulary(model: str) -> int:
    """Return the tokenizer's entries for one of `CONFIGS`."""
    small = CONFIGS[model].vocabulary <= TOKENIZER_OF_TINY
    return TOKENIZER_OF_TINY if small else TOKENIZER


def prepare(
    job: Job,
    model: str,
    corpus: str | None = None,
    hf_dataset: str | None = None,
    corpus_mib: float | None = None,
    vocabulary: int | None = None,
) -> Text:
    """Return the text for one of `CONFIGS`; rank 0 makes what is missing.

    The other ranks come second and find it in the cache; those of another
    node, where the cache is not shared, make it there.

    Args:
        corpus: a file or folder; without one and without `hf_dataset`, the
            standard library's own texts.
        hf_dataset: Hugging Face NAME[:CONFIG].
        corpus_mib: the first MiB of it; tiny and mini take 1.
        vocabulary: entries of the tokenizer; by the model if None.

    Raises:
        UserError: on all ranks, for text that is not there or does not fit
            the model.
    """
    if corpus_mib is None and model in ("tiny", "mini"):
        corpus_mib = TINY_MIB
    entries = vocabulary or default_vocabulary(model)

    def make() -> Text:
        texts = load_corpus(corpus, hf_dataset, corpus_mib)
        trained = tokenizer_for(texts, entries, show=job.first)
        room = CONFIGS[model].vocabulary
        if trained.vocabulary > room:
            raise UserError(
                f"the tokenizer has {trained.vocabulary} entries and the "
                f"model {model} room for {room}: lower --vocabulary"
            )
        return Text(texts, trained, *encoded(texts, trained, show=job.first))

    first = together(lambda: make() if job.first else None)
    return together(lambda: first or make())
