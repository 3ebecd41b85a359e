"""Getting Slurm's packages, and the bundle for hosts without network."""

from pathlib import Path

import pytest

from workshop.errors import UserError
from workshop.slurm.local import availability, bundle, packages, programs

SIMULATED = """Inst libc6 (2.36)
Inst adduser (3.1)
Inst libmunge2 (0.5)
Inst zlib1g (1.2)
Inst munge (0.5)
Inst slurm-wlm-basic-plugins (22.05)
Inst libstdc++6 (12)
Inst slurmctld (22.05)
Conf munge (0.5)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch) -> Path:
    """Make `tmp_path` the folder of the packages, PATH only its bin."""
    monkeypatch.setattr(packages, "folder", lambda: tmp_path / ".slurm")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    return tmp_path


def program(project: Path, name: str, body: str) -> None:
    path = project / "bin" / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def no_report(stage: str) -> None:
    assert stage


def test_apt_decides_what_is_needed(project: Path) -> None:
    program(
        project,
        "apt-get",
        f"""case "$*" in *--simulate*) cat <<'END'
{SIMULATED}END
;; *download*) while [ "$1" != download ]; do shift; done; shift
for n; do : >"${{n}}_1_amd64.deb"; done;; esac""",
    )
    debs = packages.download(project / "debs", no_report)
    assert [path.name.split("_")[0] for path in debs] == [
        "libmunge2",
        "munge",
        "slurm-wlm-basic-plugins",
        "slurmctld",
        "zlib1g",
    ]


def test_no_network_is_one_sentence_and_remembered(
    project: Path, monkeypatch
) -> None:
    said = "E: Failed to fetch http://mirror.invalid  Could not resolve"
    program(project, "apt-get", f"echo '{said}' >&2; exit 100")
    with pytest.raises(UserError, match="Could not resolve") as caught:
        packages.obtain(None, no_report)
    assert "--bundle" in str(caught.value)
    monkeypatch.setattr(availability, "available", lambda: False)
    monkeypatch.setattr(programs, "installed", lambda: False)
    assert availability.possible() == str(caught.value)


def test_no_apt_is_named(project: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(project / "bin"))
    with pytest.raises(UserError, match="apt-get is missing"):
        packages.download(project / "debs", no_report)
    monkeypatch.setattr(availability, "available", lambda: False)
    monkeypatch.setattr(programs, "installed", lambda: False)
    assert "no apt" in availability.possible()


def test_broken_package_leaves_nothing_behind(project: Path) -> None:
    debs = project / "carried" / "debs"
    debs.mkdir(parents=True)
    with pytest.raises(UserError, match="holds no Slurm packages"):
        packages.obtain(project / "carried", no_report)
    (debs / "munge_1_amd64.deb").write_text("not a package")
    with pytest.raises(UserError, match="munge_1_amd64.deb cannot be unpack"):
        packages.obtain(project / "carried", no_report)
    assert not packages.is_unpacked()


def test_incomplete_packages_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sbatch is missing below"):
        programs.write_wrappers(tmp_path, tmp_path)


def test_other_systems_are_told_that_cells_replay(monkeypatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert "Slurm runs on Linux" in availability.possible()
    from workshop.slurm import local as cluster

    with pytest.raises(UserError, match="replay"):
        cluster.start()


def test_bundle_holds_packages_and_wheels(project: Path, monkeypatch) -> None:
    deb = project / "munge_1_amd64.deb"
    deb.write_bytes(b"x" * 1000)

    def wheels(wanted: list[str], to: Path) -> None:
        to.mkdir()
        for line in wanted:
            (to / f"{line}.whl").write_bytes(b"x" * 10)

    monkeypatch.setattr(packages, "download", lambda to, report: [deb])
    monkeypatch.setattr(bundle, "_download_wheels", wheels)
    names = {f"{line}.whl" for line in bundle.requirements()}
    assert any(name.startswith("megatron-core==") for name in names)
    assert bundle.make(project / "out", no_report) == 1000 + 10 * len(names)
    assert [p.name for p in project.glob("out/debs/*")] == [deb.name]
    assert {p.name for p in project.glob("out/wheels/*")} == names
    (project / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        bundle.make(project / "file", no_report)


def test_bundle_takes_the_pinned_versions(project: Path, monkeypatch) -> None:
    monkeypatch.setattr(bundle, "root", lambda: project)
    listed = project / "slurm" / "cluster" / "bundle.txt"
    listed.parent.mkdir(parents=True)
    (project / "requirements.txt").write_text("# all\nhjson==3.1.0\nx==1\n")
    listed.write_text("# why\nhjson  # because\n\n")
    assert bundle.requirements() == ["hjson==3.1.0"]
    listed.write_text("ninja\n")
    with pytest.raises(UserError, match="asks for ninja, which"):
        bundle.requirements()
