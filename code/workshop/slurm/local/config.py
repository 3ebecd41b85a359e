"""The text of every configuration file of the local cluster.

Slurm's own manual pages (slurm.conf, gres.conf, cgroup.conf) define the
options; the comments here say why the unusual ones are needed.
"""

from workshop.slurm.state import Layout

# A dozen jobs a minute is what a reader sees; a site has thousands and
# therefore schedules lazily.
SCHEDULER = (
    "batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1"
)


def slurm_conf(layout: Layout, user: str, host: str, plugins: str) -> str:
    """Return slurm.conf of a cluster run by `user` on machine `host`."""
    base = layout.base
    lines = [
        "ClusterName=workshop",
        f"SlurmctldHost={host}(127.0.0.1)",
        f"SlurmctldPort={layout.port}",
        f"SlurmUser={user}",
        f"SlurmdUser={user}",
        "AuthType=auth/munge",
        "CredType=cred/munge",
        f"AuthInfo=socket={base}/sock/munge",
        f"PluginDir={plugins}",
        f"StateSaveLocation={base}/state",
        f"SlurmdSpoolDir={base}/spool.%n",
        f"SlurmctldPidFile={base}/run/slurmctld.pid",
        f"SlurmdPidFile={base}/run/slurmd.%n.pid",
        f"SlurmctldLogFile={base}/log/slurmctld.log",
        f"SlurmdLogFile={base}/log/slurmd.%n.log",
        "MailProg=/bin/true",
        # No cgroups: containers often have none that may be written.
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "JobAcctGatherType=jobacct_gather/none",
        "AccountingStorageType=accounting_storage/none",
        "JobCompType=jobcomp/filetxt",
        f"JobCompLoc={base}/log/jobcomp.log",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_CPU",
        # Nodes may claim more CPUs than the machine has.
        "SlurmdParameters=config_overrides",
        f"SchedulerParameters={SCHEDULER}",
        "EnforcePartLimits=ALL",
        "ReturnToService=2",
        "KillWait=5",
        # A finished job stays visible for scontrol for a day.
        "MinJobAge=86400",
        f"TaskProlog={base}/task_prolog.sh",
        f"Epilog={base}/epilog.sh",
    ]
    communication = []
    if layout.loopback_only:
        # Slurm looks addresses up with AI_ADDRCONFIG, and where no other
        # interface is up that hides every IPv4 address, 127.0.0.1 too.
        communication.append("EnableIPv6")
    if layout.local_name:
        # Daemons and commands then listen where their host name leads and
        # nowhere else.
        communication += ["NoCtldInAddrAny", "NoInAddrAny"]
    if communication:
        lines.append(f"CommunicationParameters={','.join(communication)}")
    if layout.gpus_per_node:
        lines.append("GresTypes=gpu")
    gres = f" Gres=gpu:{layout.gpus_per_node}" if layout.gpus_per_node else ""
    for number, name in enumerate(layout.names):
        node_host = name if layout.own_names else host
        lines.append(
            f"NodeName={name} NodeHostname={node_host} NodeAddr=127.0.0.1 "
            f"Port={layout.slurmd_port(number)} CPUs={layout.cpus_per_node} "
            f"RealMemory={layout.memory_mib}{gres} State=UNKNOWN"
        )
    lines.append(
        f"PartitionName=debug Nodes={','.join(layout.names)} Default=YES "
        "MaxTime=INFINITE State=UP"
    )
    return "\n".join(lines) + "\n"


def gres_conf(layout: Layout) -> str:
    """Return gres.conf: which device files are the GPUs of which node."""
    lines = ["AutoDetect=off"]
    for number, name in enumerate(layout.names):
        if files := ",".join(layout.node_gpus(number)):
            lines.append(f"NodeName={name} Name=gpu File={files}")
    return "\n".join(lines) + "\n"


def cgroup_conf() -> str:
    """Return cgroup.conf.

    slurmd loads a cgroup plugin even if nothing uses it, and its
    autodetection dies where /sys/fs/cgroup is missing or hybrid; the v1
    plugin does nothing until it is asked to.
    """
    return "CgroupPlugin=cgroup/v1\n"


def gpu_map(layout: Layout, node: int) -> str:
    """Return the machine's GPU numbers of one node, in Slurm's order."""
    first = node * layout.gpus_per_node
    return " ".join(str(first + gpu) for gpu in range(layout.gpus_per_node))


def task_prolog(layout: Layout) -> str:
    """Return the script whose output Slurm adds to each task's variables.

    Slurm numbers the GPUs of every node from 0, and without cgroups it
    cannot hide the others: the second node's first GPU must be renamed
    to the machine's third, or both nodes would share the first.
    """
    if layout.hide_gpus:
        return "#!/bin/sh\necho 'export CUDA_VISIBLE_DEVICES='\n"
    if not layout.real:
        return "#!/bin/sh\nexit 0\n"
    return f"""#!/bin/sh
case "$CUDA_VISIBLE_DEVICES" in ''|*[!0-9,]*) exit 0;; esac
map=$(cat "{layout.base}/gpumap.$SLURMD_NODENAME") || exit 0
out=
for i in $(echo "$CUDA_VISIBLE_DEVICES" | tr , ' '); do
  set -- $map
  [ "$i" -lt $# ] || exit 0
  shift "$i"
  out="$out${{out:+,}}$1"
done
echo "export CUDA_VISIBLE_DEVICES=$out"
"""
