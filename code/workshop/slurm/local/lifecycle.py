"""Start, stop and look at the local cluster."""

import os
import pwd
import shlex
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from workshop import private
from workshop.errors import UserError
from workshop.slurm import state
from workshop.slurm.local import (
    config,
    daemons,
    gpus,
    hosts,
    packages,
    programs,
    strays,
)
from workshop.slurm.local.place import (
    check_base,
    check_ports,
    choose_ports,
    local_name,
    loopback_only,
)
from workshop.slurm.state import Layout, default_base, load

Report = Callable[[str], None]

# Claimed, not real: nothing binds the jobs' processes to CPUs here.
CPUS_PER_NODE = 8


def start(
    nodes: int | None = None,
    gpus_per_node: int | None = None,
    real: bool | None = None,
    *,
    base: Path | None = None,
    port: int | None = None,
    bundle: Path | None = None,
    devices: tuple[str, ...] | None = None,
    report: Report = lambda stage: None,
) -> Layout:
    """Start a Slurm cluster on this machine unless it runs already.

    One of which a daemon died or a program is gone is started anew.

    Args:
        nodes: how many nodes, each its own slurmd; None means two.
        gpus_per_node: None means all real GPUs shared out, else two.
        real: GPUs (True), stand-ins (False), or what there is (None).
        base: folder of state, logs and sockets, short and absolute.
        port: first of `nodes` + 1 ports in a row; None finds free ones.
        bundle: packages made by `workshop cluster bundle`.
        devices: character devices to deal out instead of the GPUs found.
        report: is told every stage.

    Returns:
        The running cluster's layout.

    Raises:
        UserError: it cannot run here, did not come up, or runs already
            with another shape than asked for.
    """
    base = base or default_base()
    if sys.platform != "linux":
        raise UserError(
            f"Slurm runs on Linux and this is {sys.platform}: chapters "
            "replay their recorded Slurm sessions instead"
        )
    if nodes is not None and not 1 <= nodes <= 16:
        raise UserError(f"--nodes is {nodes}: choose 1 to 16")
    if gpus_per_node is not None and not 0 <= gpus_per_node <= 16:
        raise UserError(f"--gpus-per-node is {gpus_per_node}: choose 0 to 16")
    check_base(base)
    if port is not None:
        check_ports(port, (nodes or 2) + 1)
    if bundle is not None:
        packages.carried(bundle)
    with private.lock(Path(f"{base}.lock")):
        if present := load(base):
            wrong = state.broken(present)
            if wrong is None:
                _compare(present, nodes, gpus_per_node, real, port)
                return present
            if state.alive(present):
                report(f"starting anew, since {wrong}")
                nodes = nodes or len(present.names)
                if gpus_per_node is None and devices is None:
                    gpus_per_node = present.gpus_per_node
                if real is None:
                    real = present.real
        nodes = nodes or 2
        prefix = Path("/")
        if bundle is not None or not programs.installed():
            prefix = packages.obtain(bundle, report)
        if present:
            _stop(present)
        report("writing the configuration")
        if devices is None:
            shape = gpus.choose(nodes, gpus_per_node, real)
        else:
            shape = (len(devices) // nodes, devices, True)
        try:
            # Ports are free until a daemon listens: one start at a time.
            with private.lock(
                Path(f"/tmp/workshop-ports-{os.getuid()}.lock")
            ):
                layout = _prepare(base, nodes, shape, port, prefix)
                _launch(layout, report)
        except BaseException:
            hosts.forget(base)
            if made := load(base):
                _stop(made)
            raise
    return layout


def stop(
    base: Path | None = None, report: Report = lambda stage: None
) -> bool:
    """End jobs and daemons, say whether there was a cluster to stop."""
    base = base or default_base()
    if (layout := load(base)) is None:
        return False
    with private.lock(Path(f"{base}.lock")):
        _stop(layout, report)
    return True


def describe(layout: Layout) -> str:
    """Return a cluster's shape in words."""
    kind = "GPUs" if layout.real else "pretended GPUs"
    count = len(layout.names)
    nodes = f"{count} node{'s' if count > 1 else ''}"
    return f"{nodes} of {layout.gpus_per_node} {kind}"


def _compare(present: Layout, *wanted: int | bool | None) -> None:
    """Refuse other nodes, GPUs, realness or port than those there are."""
    shape = (len(present.names), present.gpus_per_node, present.real)
    shape = (*shape, present.port)
    for asked, have in zip(wanted, shape, strict=True):
        if asked is not None and asked != have:
            raise UserError(
                f"a cluster of {describe(present)} runs already in "
                f"{present.base}: stop it with `workshop cluster stop` first"
            )


def _prepare(
    base: Path,
    nodes: int,
    shape: tuple[int, tuple[str, ...], bool],
    port: int | None,
    prefix: Path,
) -> Layout:
    """Make the cluster's folder with everything the daemons read."""
    gpus_per_node, files, real = shape
    port = choose_ports(port, nodes + 1)
    shutil.rmtree(base, ignore_errors=True)
    private.make(base, state.ANOTHER, private.ALONE)
    for part in ("run", "state", "log", "bin", "dev", "sock"):
        (base / part).mkdir()
    (base / "layout.json").write_text("{}")
    names, own_names = hosts.choose_names(base, nodes)
    if not real:
        files = tuple(
            str(base / "dev" / f"nvidia{number}")
            for number in range(nodes * gpus_per_node)
        )
        for file in files:
            # slurmd drops GPUs that are no character devices.
            Path(file).symlink_to("/dev/null")
    # Slurm's settings cannot hold a space, and a checkout's path may.
    link = base / "programs"
    link.symlink_to(prefix)
    needed = programs.write_wrappers(link, base / "bin")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    layout = Layout(
        base=str(base),
        names=names,
        gpus_per_node=gpus_per_node,
        gpus=files,
        real=real,
        hide_gpus=not real and bool(gpus.real_devices()),
        own_names=own_names,
        loopback_only=loopback_only(),
        local_name=local_name(),
        port=port,
        cpus_per_node=CPUS_PER_NODE,
        memory_mib=max(1000, memory // 2**20 // nodes),
        programs=tuple(str(program) for program in needed),
    )
    _write_configuration(layout, link)
    return layout


def _write_configuration(layout: Layout, prefix: Path) -> None:
    base = Path(layout.base)
    plugins = programs.libraries(prefix) / "slurm-wlm"
    host = socket.gethostname().split(".")[0]
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        raise UserError(
            f"user id {os.getuid()} has no name in /etc/passwd and Slurm "
            "needs one: add the user, or start as another"
        ) from None
    (base / "slurm.conf").write_text(
        config.slurm_conf(layout, user, host, str(plugins))
    )
    (base / "gres.conf").write_text(config.gres_conf(layout))
    (base / "cgroup.conf").write_text(config.cgroup_conf())
    prolog = base / "task_prolog.sh"
    prolog.write_text(config.task_prolog(layout))
    prolog.chmod(0o755)
    epilog = base / "epilog.sh"
    epilog.write_text(strays.EPILOG.format(base=base))
    epilog.chmod(0o755)
    for number, name in enumerate(layout.names):
        (base / f"spool.{name}").mkdir()
        (base / f"gpumap.{name}").write_text(config.gpu_map(layout, number))
    layout.save()


def _launch(layout: Layout, report: Report) -> None:
    report("starting munged")
    daemons.start_munged(layout)
    report("starting slurmctld")
    daemons.start_slurmctld(layout)
    for name in layout.names:
        report(f"starting slurmd of {name}")
        daemons.start_slurmd(layout, name)
    daemons.wait_until_idle(layout, report)


def _stop(layout: Layout, report: Report = lambda stage: None) -> None:
    nodes = strays.namespaces(layout)
    # Slurm's commands wait up to a minute for daemons that are dead.
    if state.broken(layout) is None:
        report("ending jobs")
        daemons.end_jobs(layout.path())
    report("stopping slurmctld and slurmds")
    daemons.end(layout, "slurmd", "slurmctld")
    report("stopping munged")
    daemons.end(layout, "munged")
    strays.end_all(layout, nodes)
    hosts.forget(layout.path())
    # The logs stay for whoever wants to know what happened.
    for _, pid_file in layout.daemons().values():
        pid_file.unlink(missing_ok=True)


def write_environment_file(base: Path) -> Path:
    """Write `.slurm/env.sh`, which puts sbatch and the rest on PATH."""
    path = packages.folder() / "env.sh"
    path.parent.mkdir(parents=True, exist_ok=True)
    conf = shlex.quote(str(base / "slurm.conf"))
    bin_folder = shlex.quote(str(base / "bin"))
    path.write_text(
        f"export SLURM_CONF={conf}\n"
        f"export WORKSHOP_SLURM_BASE={shlex.quote(str(base))}\n"
        f'case ":$PATH:" in *:{bin_folder}:*) ;; '
        f"*) export PATH={bin_folder}:$PATH ;; esac\n"
        + _site_line(path.parent / "site")
    )
    return path


def _site_line(site: Path) -> str:
    """Return the line that makes a bundle's wheels importable."""
    if not site.is_dir():
        return ""
    quoted = shlex.quote(str(site))
    return f'export PYTHONPATH={quoted}"${{PYTHONPATH:+:$PYTHONPATH}}"\n'
