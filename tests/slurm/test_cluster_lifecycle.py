"""Starting and stopping: names, GPUs, second starts, bad input."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from workshop.cli.cluster import app
from workshop.errors import UserError
from workshop.slurm import jobs, state
from workshop.slurm import local as cluster
from workshop.slurm.local import daemons, hosts
from workshop.slurm.state import Layout


def test_nodes_have_names_of_their_own(slurm_cluster: Layout, shell) -> None:
    if not slurm_cluster.own_names:
        pytest.skip("this system lets nobody make a namespace")
    done = shell("srun --nodes=2 --ntasks-per-node=1 hostname")
    assert sorted(done.stdout.split()) == sorted(slurm_cluster.names)


def test_a_node_reaches_another_by_name(slurm_cluster: Layout, shell) -> None:
    other = slurm_cluster.names[1]
    done = shell(f"srun --nodes=1 getent ahosts {other}")
    assert done.stdout.startswith("127.0.0."), done.stderr


def test_nothing_listens_on_the_network(slurm_cluster: Layout) -> None:
    if not slurm_cluster.local_name:
        pytest.skip("this machine's name leads to more than 127.0.0.1")
    ports = range(slurm_cluster.port, slurm_cluster.port + 3)
    listening = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *_ = line.split()
        address, port = local.split(":")
        if state == "0A" and int(port, 16) in ports:
            listening[int(port, 16)] = address
    # 127.0.0.1, in the byte order of the machine
    assert listening == dict.fromkeys(ports, "0100007F")


def test_second_start_changes_nothing(slurm_cluster: Layout) -> None:
    pid = slurm_cluster.path("run", "slurmctld.pid").read_text()
    assert cluster.start() == slurm_cluster
    assert slurm_cluster.path("run", "slurmctld.pid").read_text() == pid


@pytest.mark.parametrize(
    "asked", [{"nodes": 1}, {"gpus_per_node": 1}, {"real": True}]
)
def test_another_shape_is_refused(slurm_cluster: Layout, asked) -> None:
    with pytest.raises(UserError, match="2 nodes of 2 pretended GPUs runs"):
        cluster.start(**asked)


def test_each_node_gets_devices_of_its_own(
    slurm_cluster: Layout, second_base: Path, tmp_path: Path
) -> None:
    """Four character devices stand for the GPUs of a real machine."""
    devices = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")
    layout = cluster.start(devices=devices)
    assert layout.port != slurm_cluster.port
    output = tmp_path / "gpus.out"
    jobs.wait(
        jobs.submit("slurm/gpus.sbatch", options=[f"--output={output}"]), 120
    )
    devices = re.findall(
        r"on (\S+): .*CUDA_VISIBLE_DEVICES=(\S+)", output.read_text()
    )
    assert dict(devices) == dict(
        zip(layout.names, ("0,1", "2,3"), strict=True)
    )


def test_without_namespaces_names_still_resolve(
    slurm_cluster: Layout, second_base: Path, monkeypatch
) -> None:
    monkeypatch.setattr(hosts, "namespaces_work", lambda base: False)
    before = Path("/etc/hosts").read_text()
    layout = cluster.start(gpus_per_node=0)
    assert not layout.own_names and layout.gpus == ()
    line = f"srun -n1 getent ahosts {layout.names[1]}"
    done = subprocess.run(
        ["bash", "-c", line],
        env=cluster.environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0 and done.stdout, done.stderr
    cluster.stop()
    assert Path("/etc/hosts").read_text() == before


def test_stop_ends_everything(slurm_cluster, second_base: Path) -> None:
    layout = cluster.start(nodes=1)
    script = second_base / "sleeper.sbatch"
    lines = ["#!/bin/bash", "(setsid sleep 98765 &)", "srun sleep 98765"]
    if layout.own_names:  # else nothing tells whose it is
        lines.insert(1, "(env -i setsid sleep 98765 &)")
    script.write_text("\n".join(lines) + "\n")
    job_id = jobs.submit(script, options=["--output=/dev/null"])
    running = jobs.GOING - {"PENDING", "CONFIGURING"}
    ends = time.monotonic() + 120
    while jobs.state(job_id).state not in running:
        assert time.monotonic() < ends, "the job does not start"
        time.sleep(0.1)
    assert state.alive(layout) == {"munged", "slurmctld", "slurmd of node1"}
    runner = CliRunner()
    assert runner.invoke(app, ["status"]).exit_code == 0
    assert runner.invoke(app, ["stop"]).exit_code == 0
    assert not state.alive(layout)
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        assert b"98765" not in command, "a job outlives its cluster"
    status = runner.invoke(app, ["status"])
    assert status.exit_code == 3 and "workshop cluster start" in status.output
    assert runner.invoke(app, ["stop"]).exit_code == 0


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_stop_waits_for_no_munged_that_is_dead_or_hangs(
    slurm_cluster, second_base: Path, how: signal.Signals
) -> None:
    layout = cluster.start(nodes=1)
    os.kill(int(layout.path("run", "munged.pid").read_text()), how)
    began = time.monotonic()
    cluster.stop()
    assert time.monotonic() - began < 25
    assert not state.alive(layout)


def test_taken_port_is_named(slurm_cluster, second_base: Path) -> None:
    with pytest.raises(
        UserError, match=f"port {slurm_cluster.port} is taken"
    ):
        cluster.start(port=slurm_cluster.port)
    assert not cluster.running()


def test_failed_start_leaves_nothing(
    slurm_cluster, second_base: Path, monkeypatch
) -> None:
    def broken(layout: Layout, name: str) -> None:
        raise UserError("slurmd did not start")

    monkeypatch.setattr(daemons, "start_slurmd", broken)
    with pytest.raises(UserError, match="slurmd did not start"):
        cluster.start()
    assert not cluster.running() and not list(second_base.glob("run/*.pid"))


def test_no_cluster_is_one_sentence(second_base: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="sbatch not found"):
        cluster.environment()
