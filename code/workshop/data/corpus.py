"""Text to train on: the Python standard library, your files, or a data set.

The default corpus lies on every reader's machine: the documentation topics
of `pydoc_data`, then the sources of the standard library.  Python versions
ship different texts, so the corpus carries a SHA-256.
"""

import hashlib
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from workshop.errors import UserError

# Tests and third-party packages differ between installations, the codecs
# are tables of numbers, and the topics are taken as text, not as a source.
LEFT_OUT = {
    "site-packages",
    "dist-packages",
    "__pycache__",
    "test",
    "tests",
    "idle_test",
    "encodings",
    "pydoc_data",
}
HELD_OUT_FRACTION = 0.05


@dataclass(frozen=True)
class Corpus:
    """Documents to train on, documents held out, and the SHA-256 of all."""

    name: str
    training: tuple[str, ...]
    held_out: tuple[str, ...]
    sha256: str


def load_corpus(
    path: str | None = None,
    hf_dataset: str | None = None,
    mib: float | None = None,
) -> Corpus:
    """Read a corpus and split it into training and held-out documents.

    `path` names a text file or a folder of them, `hf_dataset` a data set
    of the Hugging Face Hub as NAME or NAME:CONFIGURATION; with neither it
    is the Python standard library.  `mib` keeps only so many MiB of text.

    Raises `UserError` when the source is missing, empty or not text.
    """
    if path and hf_dataset:
        raise UserError(
            f"both a corpus path ({path}) and a Hugging Face data set "
            f"({hf_dataset}) are given: choose one"
        )
    if mib is not None and not mib > 0:
        raise UserError(
            f"a corpus of {mib} MiB holds no text: ask for more than 0"
        )
    if path:
        name, texts = path, text_files(Path(path))
    elif hf_dataset:
        name, texts = hf_dataset, hugging_face(hf_dataset)
    else:
        name, texts = "python-standard-library", standard_library()
    limit = None if mib is None else int(mib * 2**20)
    documents = [t for t in _first_bytes(texts, limit) if t.strip()]
    if not documents:
        raise UserError(f"the corpus {name} holds no text: name another one")
    digest = hashlib.sha256()
    for document in documents:
        digest.update(hashlib.sha256(document.encode()).digest())
    training, held_out = split(documents)
    return Corpus(name, training, held_out, digest.hexdigest())


def split(
    documents: list[str], fraction: float = HELD_OUT_FRACTION
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split into training and held-out documents, the same on every call.

    Documents are taken in the order of their SHA-256 while about `fraction`
    of the text is held out, so that neither order nor names matter.  All
    copies of a repeated document go the same way.  Where every document is
    too long for that, the end of the longest is cut off each of its copies
    and held out.
    """
    wanted = fraction * sum(map(len, documents))
    copies = Counter(documents)
    by_hash = sorted(
        copies, key=lambda text: hashlib.sha256(text.encode()).digest()
    )
    chosen: set[str] = set()
    taken = 0
    for text in by_hash:
        if taken + copies[text] * len(text) <= wanted:
            chosen.add(text)
            taken += copies[text] * len(text)
    training = [text for text in documents if text not in chosen]
    held_out = [text for text in documents if text in chosen]
    if not held_out:
        longest = max(training, key=len)
        tail = max(1, round(wanted / copies[longest]))
        cut = max(1, len(longest) - tail)
        training = [t[:cut] if t == longest else t for t in training]
        held_out = [longest[cut:]]
    return tuple(training), tuple(held_out)


def standard_library() -> Iterator[str]:
    """Yield the documentation topics, then the sources in path order.

    A source that is not UTF-8 is left out, and so are `_sysconfigdata` and
    `python-config`, which describe the machine that Python was built on.
    """
    from pydoc_data import topics

    yield from (topics.topics[key] for key in sorted(topics.topics))
    folder = Path(sysconfig.get_paths()["stdlib"])
    sources = [
        source
        for source in folder.rglob("*.py")
        if not LEFT_OUT.intersection(source.relative_to(folder).parts)
        and not source.name.startswith(("_sysconfigdata", "python-config"))
    ]
    for source in sorted(sources, key=lambda s: s.relative_to(folder)):
        try:
            yield source.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def text_files(path: Path) -> Iterator[str]:
    """Yield the text of a file, or of all files below a folder by path.

    Hidden files are left out.  Raises `UserError` for a missing path, an
    empty folder and a file that is not UTF-8 text.
    """
    if not path.exists():
        raise UserError(
            f"the corpus path {path} does not exist: "
            "name a text file or a folder of text files"
        )
    files = [path]
    if path.is_dir():
        files = sorted(
            file
            for file in path.rglob("*")
            if file.is_file()
            and not any(
                part.startswith(".") for part in file.relative_to(path).parts
            )
        )
    if not files:
        raise UserError(
            f"the corpus folder {path} is empty: put text files into it"
        )
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            text = "\0"
        except OSError as error:
            raise UserError(
                f"the corpus file {file} cannot be read "
                f"({error.strerror}): check its permissions"
            ) from None
        if "\0" in text:
            raise UserError(
                f"the corpus file {file} is not UTF-8 text: "
                "convert it or take it out of the folder"
            )
        yield text


def hugging_face(name: str) -> Iterator[str]:
    """Yield the `text` column of a data set's train split.

    Raises `UserError` when `datasets` is not installed, when the data set
    cannot be loaded, and when it has no such column.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"the data set {name} needs the package `datasets`, which is "
            "not installed: pip install datasets"
        ) from None
    path, _, configuration = name.partition(":")
    try:
        rows = datasets.load_dataset(
            path, configuration or None, split="train"
        )
    # It raises many kinds, with none in common.
    except Exception as error:  # noqa: BLE001
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"the data set {name} cannot be loaded ({reason}): "
            "check its name and the network"
        ) from None
    if "text" not in rows.column_names:
        raise UserError(
            f"the data set {name} has the columns "
            f"{', '.join(rows.column_names)}, but none called text: "
            "name one with plain text"
        )
    for row in rows:
        yield row["text"]


def _first_bytes(texts: Iterable[str], limit: int | None) -> Iterator[str]:
    """Yield texts until `limit` bytes of UTF-8; the last one is cut."""
    for text in texts:
        if limit is None:
            yield text
            continue
        encoded = text.encode()
        yield encoded[:limit].decode(errors="ignore")
        limit -= len(encoded)
        if limit <= 0:
            return
