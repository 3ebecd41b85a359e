"""What nvidia-smi prints is kept beside a record, without processes."""

from types import SimpleNamespace

import pytest

from workshop.notebook.machine import nvidia_smi
from workshop.records import node

PROGRAM = """#!/bin/sh
case "$1" in topo) printf '\\tGPU0\\nGPU0\\t X \\n'; exit;; esac
printf '| GPU X |\\n\\n+---+\\n| Processes:  |\\n| 0 1234 secret |\\n'
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Put a program of that name alone on the PATH."""
    file = tmp_path / "nvidia-smi"
    file.write_text(PROGRAM)
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return file


def test_both_outputs_are_written_and_no_process(
    program, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("sys.argv", ["node", str(tmp_path)])
    monkeypatch.setattr(
        node, "describe", lambda: {"node": "node9", "host": {}}
    )
    node.main()
    text = (tmp_path / f"node9.{node.SMI}").read_text()
    assert text == (
        "$ nvidia-smi\n| GPU X |\n\n$ nvidia-smi topo -m\n"
        "\tGPU0\nGPU0\t X\n"
    )


def test_without_the_program_there_is_nothing(program) -> None:
    program.write_text("#!/bin/sh\nexit 9\n")
    assert node.nvidia_smi() == ""
    program.unlink()
    assert node.nvidia_smi() == ""


def test_a_page_shows_what_its_record_has(tmp_path) -> None:
    links = {"devices": ["GPU0", "GPU1"], "matrix": [["X", "NV4"]] * 2}
    record = {"hardware": {"links": links}}
    run = SimpleNamespace(folder=tmp_path, record=record)
    assert "GPU0  X     NV4" in nvidia_smi(run)
    record["hardware"]["links"] = None
    assert nvidia_smi(run).startswith("No GPU here")
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / node.SMI).write_text("$ nvidia-smi\nX\n")
    assert nvidia_smi(run) == "$ nvidia-smi\nX"
