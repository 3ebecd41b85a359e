"""record.json: what is read as it is, and what is refused in a sentence."""

import json

import pytest
import runs_folder

from workshop.errors import UserError
from workshop.records import schema

RUNS = runs_folder.HERE / "book" / "runs"
GOOD = (RUNS / "lab1/links-1node/record.json").read_text()


def test_every_record_of_any_version_is_read_as_it_is():
    for file in RUNS.rglob("record.json"):
        assert schema.read(file) == json.loads(file.read_text())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("null", "not an object"),
        ("[]", "not an object"),
        ("[" * 100_000, "not JSON"),
        ("9" * 5000, "not JSON"),
        ("{}", "lacks the field 'schema'"),
        ('{"schema": true}', "has schema True"),
        ('{"schema": 99}', "has schema 99"),
        (
            json.dumps(json.loads(GOOD) | {"summary": {"x": None}}),
            "summary.x",
        ),
        (json.dumps(json.loads(GOOD) | {"hosts": []}), "nothing in hosts"),
        (json.dumps(json.loads(GOOD) | {"status": "late"}), "unknown status"),
        (json.dumps(json.loads(GOOD) | {"files": [1]}), "files of the wrong"),
    ],
)
def test_a_broken_record_is_one_sentence(tmp_path, text, says):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(UserError) as error:
        schema.read(tmp_path / "record.json")
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300
