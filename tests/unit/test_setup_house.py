"""Rules that hold for every file of the repository."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ("pypi" + ".org", "npmjs" + ".org", "npmjs" + ".com",
         "pythonhosted" + ".org", "download.pytorch" + ".org",
         "debian" + ".org")  # fmt: skip
HOME = re.compile(r"(?<![\w.|])/(?:root|home/\w+|work/main|work/shared)\b")

VAGUE = {"found", "result", "results", "stuff", "tmp", "foo"}


def committed() -> list[Path]:
    """Return the text files that git knows or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\n")  # fmt: skip
    binary = {".png", ".gz", ".ico"}
    paths = [ROOT / name for name in listed if name]
    return [p for p in paths if p.is_file() and p.suffix not in binary]


FILES = committed()
PYTHON = [path for path in FILES if path.suffix == ".py"]


def test_a_file_of_code_has_under_300_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in PYTHON
        if (lines := path.read_text().count("\n")) >= 300
    }
    assert PYTHON
    assert not long, long


def test_code_that_the_book_shows_is_78_columns_wide() -> None:
    shown = [p for p in PYTHON if p.is_relative_to(ROOT / "code")]
    wide = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in shown
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > 78
    ]
    assert shown
    assert not wide, wide


def test_no_file_names_a_registry_or_a_folder_of_one_machine() -> None:
    named = []
    for path in FILES:
        if path.is_relative_to(ROOT / "book" / "runs"):
            continue  # a record says where it ran
        text = path.read_text()
        name = str(path.relative_to(ROOT))
        named += [f"{name}: {host}" for host in HOSTS if host in text]
        named += [f"{name}: {m[0]}" for m in HOME.finditer(text)]
    assert not named


def test_a_name_explains_itself() -> None:
    vague = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {name}"
        for path in PYTHON
        if path.is_relative_to(ROOT / "code")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (getattr(node, kind, "") for kind in ("id", "arg"))
        if name in VAGUE
    ]
    assert not vague


def test_third_party_javascript_is_not_committed() -> None:
    assert not [p for p in FILES if p.name.endswith((".min.js", ".mjs"))]
    assert '"resolved"' not in (ROOT / "package-lock.json").read_text()


def test_import_code_is_the_standard_library() -> None:
    assert not (ROOT / "code" / "__init__.py").exists()
    program = "import code, workshop; print(code.InteractiveConsole and "
    program += "code.__file__)"
    for folder in (ROOT, ROOT / "tests"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=folder, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert not Path(done.stdout.strip()).is_relative_to(ROOT / "code")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("pytest.skip('no reason')", 1),
        ("pass", 0),
        ("assert 0", 1),
    ],
)
def test_a_session_that_only_skips_fails(tmp_path, body, code) -> None:
    conftest = (ROOT / "tests" / "conftest.py").read_text()
    (tmp_path / "conftest.py").write_text(conftest)
    test = f"import pytest\n\ndef test_it():\n    {body}\n"
    (tmp_path / "test_it.py").write_text(test)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
         str(tmp_path), "-c", "/dev/null", "--rootdir", str(tmp_path)],
        check=False, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    assert ("every test was skipped" in done.stdout) == ("skip" in body)


def test_imports_go_down_and_never_in_a_circle() -> None:
    """The contracts stand in pyproject.toml."""
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [program, "--no-cache"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "code")},
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout
