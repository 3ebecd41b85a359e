"""What another user of the machine lays down is refused, not used."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from test_cluster_config import TWO_OF_TWO

from workshop import paths, private
from workshop.errors import UserError
from workshop.job import launch
from workshop.slurm import access, state
from workshop.slurm.local import lifecycle, place

SOMEONE = 65534


@pytest.fixture
def theirs(monkeypatch):
    """Return a function that gives a path to another user.

    Who is not root cannot, and becomes another user instead.
    """

    def give(path: Path) -> None:
        if os.getuid() == 0:
            os.chown(path, SOMEONE, SOMEONE, follow_symlinks=False)
        else:
            monkeypatch.setattr(os, "getuid", lambda: SOMEONE)

    return give


@pytest.fixture
def trap(short_path, monkeypatch):
    """A cluster that looks as if it were up, and whose sinfo is a trap."""
    base = short_path / "c"
    for part in ("bin", "run"):
        (base / part).mkdir(parents=True, mode=0o700)
    base.chmod(0o700)
    replace(TWO_OF_TWO, base=str(base)).save()
    (base / "bin" / "sinfo").write_text(
        f"#!/bin/sh\ntouch {short_path}/ran\n"
    )
    (base / "bin" / "sinfo").chmod(0o755)
    monkeypatch.setenv("WORKSHOP_SLURM_BASE", str(base))
    monkeypatch.delenv("SLURM_CONF", raising=False)
    monkeypatch.setattr(state, "broken", lambda layout: None)
    assert access.available(), "the trap is one that works"
    return base


@pytest.mark.parametrize("kind", ["owner", "mode", "link", "file"])
def test_a_cluster_that_another_user_laid_is_refused(trap, theirs, kind):
    says = {"owner": "belongs to user", "mode": "its mode is 0777",
            "link": "is a link",
            "file": "is no folder|something else"}[kind]  # fmt: skip
    aside = trap.with_name("aside")
    if kind == "owner":
        theirs(trap)
    elif kind == "mode":
        trap.chmod(0o777)
    else:
        trap.rename(aside)
        trap.write_text("{}") if kind == "file" else trap.symlink_to(aside)
    for ask in (access.available, access.running, access.environment,
                lifecycle.start, lifecycle.stop):  # fmt: skip
        with pytest.raises(
            UserError, match=f"{trap} .*({says}).*--base"
        ) as e:
            ask()
        assert "\n" not in str(e.value)
    with pytest.raises(UserError, match=says):
        place.check_base(trap)
    assert not (trap.parent / "ran").exists()


def test_a_folder_that_anyone_can_exchange_is_refused(tmp_path):
    shared = tmp_path / "shared"
    private.make(shared / "mine", "go")
    private.check(shared / "mine", "go")
    shared.chmod(0o777)
    with pytest.raises(UserError, match="anyone can exchange it: go"):
        private.check(shared / "mine", "go")
    shared.chmod(0o1777)
    private.check(shared / "mine", "go")
    private.make(shared / "between" / "mine", "go")
    shared.chmod(0o777)
    with pytest.raises(UserError, match="anyone can exchange it: go"):
        private.check(shared / "between" / "mine", "go")


def test_a_cluster_that_others_may_read_is_refused(short_path):
    (short_path / "c").mkdir()
    for mode, says in ((0o700, None), (0o755, "its mode is 0755")):
        (short_path / "c").chmod(mode)
        if says is None:
            place.check_base(short_path / "c")
            continue
        with pytest.raises(UserError, match=says):
            place.check_base(short_path / "c")


def test_a_folder_is_made_for_its_user_alone(tmp_path):
    before = os.umask(0)
    try:
        made = private.make(tmp_path / "a", "go", private.ALONE)
    finally:
        os.umask(before)
    assert made.stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made .*: go"):
        private.make(tmp_path / "file" / "b", "go")


@pytest.mark.parametrize("kind", ["owner", "link", "folder", "pipe"])
def test_a_lock_that_another_user_laid_changes_nothing(
    tmp_path, theirs, kind
):
    kept, path = tmp_path / "kept", tmp_path / "ports.lock"
    kept.write_text("what I wrote")
    if kind == "link":
        path.symlink_to(kept)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_text("theirs")
        theirs(path)
    with pytest.raises(UserError, match=f"{path} .*: remove it"):
        with private.lock(path):
            pass
    assert kept.read_text() == "what I wrote"
    assert kind != "owner" or path.read_text() == "theirs"


def test_a_lock_is_neither_emptied_nor_left_open_to_others(tmp_path):
    path = tmp_path / "ports.lock"
    path.write_text("older")
    path.chmod(0o644)
    with private.lock(path):
        assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == "older"


def test_a_cache_that_others_may_fill_is_refused(
    tmp_path, monkeypatch, theirs
):
    monkeypatch.setenv("WORKSHOP_CACHE", str(tmp_path / "cache"))
    made = paths.cache()
    assert made.stat().st_mode & 0o777 == 0o700
    made.chmod(0o755)
    assert paths.cache() == made
    made.chmod(0o777)
    with pytest.raises(UserError, match="WORKSHOP_CACHE"):
        paths.cache()
    made.chmod(0o700)
    theirs(made)
    with pytest.raises(UserError, match="belongs to user"):
        paths.cache()


def test_a_daemon_of_another_user_is_none_of_ours(tmp_path, monkeypatch):
    pid_file = tmp_path / "run" / "slurmctld.pid"
    pid_file.parent.mkdir()
    pid_file.write_text(str(os.getpid()))
    conf = str(tmp_path / "slurm.conf")
    process = state.psutil.Process
    monkeypatch.setattr(process, "cmdline", lambda self: ["slurmctld"])
    monkeypatch.setattr(process, "environ", lambda self: {"SLURM_CONF": conf})
    assert state.daemon_pid(pid_file, "slurmctld") == os.getpid()
    monkeypatch.setattr(os, "getuid", lambda: SOMEONE)
    assert state.daemon_pid(pid_file, "slurmctld") is None


def test_compiled_code_is_kept_where_nobody_else_can_lay_some(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "put back at the end")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setattr(launch.tempfile, "gettempdir", lambda: str(tmp_path))
    launch.keep_compiled_code_private()
    made = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert made.parent == tmp_path and made.stat().st_mode & 0o777 == 0o700
    launch.keep_compiled_code_private()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(made)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    made.chmod(0o777)
    with pytest.raises(UserError, match="TORCHINDUCTOR_CACHE_DIR"):
        launch.keep_compiled_code_private()
