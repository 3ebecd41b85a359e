"""Where text comes from, how it is split, and what is refused."""

import sys
import types

import pytest

from workshop.data.corpus import load_corpus, split, standard_library
from workshop.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for name in ("b.txt", "a.txt", "deep/c.md"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"text of {name}\n" * 50)
    (tmp_path / ".hidden").write_bytes(b"\xff\x00")
    return tmp_path


def test_the_standard_library_is_the_same_every_time():
    one, two = load_corpus(mib=1), load_corpus(mib=1)
    assert one == two
    size = sum(len(t.encode()) for t in (*one.training, *one.held_out))
    assert 0.99 * 2**20 < size <= 2**20


def test_the_standard_library_is_megabytes():
    assert sum(map(len, standard_library())) > 5e6


def test_sources_come_in_order_and_some_are_left_out(tmp_path, monkeypatch):
    for name in (
        "b.py",
        "a.py",
        "json/tool.py",
        "test/test_gc.py",
        "site-packages/numpy.py",
        "_sysconfigdata_linux.py",
        "notes.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "latin.py").write_bytes(b"# caf\xe9")
    monkeypatch.setattr(
        "sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)}
    )
    assert list(standard_library())[-3:] == ["a.py", "b.py", "json/tool.py"]


def test_held_out_documents_are_a_small_disjoint_part():
    documents = [f"document {i} " * (1 + i % 7) for i in range(400)]
    training, held_out = split(documents)
    assert sorted((*training, *held_out)) == sorted(documents)
    share = sum(map(len, held_out)) / sum(map(len, documents))
    assert 0.04 < share <= 0.05
    _, held_again = split(documents[::-1])
    assert set(held_again) == set(held_out)


@pytest.mark.parametrize("count", [1, 2])
def test_few_long_documents_are_cut(count):
    documents = [chr(97 + i) * 1000 for i in range(count)]
    training, held_out = split(documents)
    assert "".join((*training, *held_out)).count("a") == 1000
    assert len(held_out) == 1 and len(held_out[0]) == 50 * count
    assert len(training) == count


@pytest.mark.parametrize("copies", [2, 20])
@pytest.mark.parametrize("others", [0, 400])
def test_nothing_held_out_is_trained_on(copies, others):
    """Whatever the copies: of small documents, or of one that is cut."""
    repeated = [f"this text comes {copies} times, {i}\n" for i in range(40)]
    long = "".join(f"sentence {i} of many. " for i in range(400))
    documents = repeated * copies + [long] * copies
    documents += [f"document {i} " * (1 + i % 7) for i in range(others)]
    for some in (documents, [long] * copies):
        training, held_out = split(some)
        assert held_out and training
        assert not set(training) & set(held_out)
        for text in held_out:
            assert not any(text in trained for trained in training)


def test_a_folder_is_read_in_the_order_of_its_paths(folder):
    corpus = load_corpus(str(folder))
    texts = (*corpus.training, *corpus.held_out)
    assert [t.split("\n")[0] for t in corpus.training] == [
        "text of a.txt",
        "text of b.txt",
        "text of deep/c.md",
    ]
    assert sum(map(len, texts)) == 50 * (14 + 14 + 18)
    (folder / "a.txt").write_text("another text")
    assert load_corpus(str(folder)).sha256 != corpus.sha256


def test_a_single_file_is_a_corpus(folder):
    assert load_corpus(str(folder / "a.txt")).training[0].startswith("text")


def test_a_missing_path_is_named():
    with pytest.raises(UserError, match="/no/such/folder does not exist"):
        load_corpus("/no/such/folder")


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} is empty"):
        load_corpus(str(tmp_path))


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("  \n")
    with pytest.raises(UserError, match=f"{tmp_path} holds no text"):
        load_corpus(str(tmp_path))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"PNG\x00data"])
def test_a_file_that_is_not_text_is_named(folder, content):
    (folder / "b.txt").write_bytes(content)
    with pytest.raises(UserError, match="b.txt is not UTF-8 text"):
        load_corpus(str(folder))


@pytest.mark.parametrize("mib", [0, -1, float("nan")])
def test_a_size_of_nothing_is_refused(mib):
    with pytest.raises(UserError, match="more than 0"):
        load_corpus(mib=mib)


def test_two_sources_are_refused(folder):
    with pytest.raises(UserError, match="choose one"):
        load_corpus(str(folder), hf_dataset="wikitext")


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for `datasets`, which the environment does not hold."""

    class Rows(list):
        column_names = ("text",)

    module = types.ModuleType("datasets")

    def load_dataset(path, name, split):
        assert split == "train"
        if path == "missing":
            raise FileNotFoundError("no data set missing\nmore")
        rows = Rows({"text": f"{path} {name} {i} " * 9} for i in range(60))
        if path == "images":
            rows.column_names = ("image", "label")
        return rows

    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_a_hugging_face_data_set_gives_its_text(hub):
    corpus = load_corpus(hf_dataset="wikitext:raw")
    assert corpus.training[0].startswith("wikitext raw 0")
    assert len(corpus.training) + len(corpus.held_out) == 60


@pytest.mark.parametrize(
    "name, message",
    [
        ("missing", r"loaded \(no data set missing\)"),
        ("images", "image, label, but none called text"),
    ],
)
def test_a_wrong_data_set_is_one_sentence(hub, name, message):
    with pytest.raises(UserError, match=message):
        load_corpus(hf_dataset=name)


def test_without_the_package_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="pip install datasets"):
        load_corpus(hf_dataset="wikitext")
