"""A real Slurm of two nodes on one machine (tests/netns.py): munge, slurmctld and slurmd on node1, slurmd on node2. Root only.

As a program it starts a cluster and a shell on node1, where sbatch and squeue work: python3 tests/slurm_cluster.py"""
import os, re, shutil, subprocess, sys, tempfile, time
import netns

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
# No cgroups: the machine may have none to give (version 2 needs a systemd, which these hosts do not see), and the processes of a job are
# found by their parents. cred_expire is also how long a requeued job waits before it starts again (120 s by default). config_overrides: a
# node may claim more cores than there are.
CONF = """
ClusterName=test
SlurmctldHost=node1
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
TmpFS={folder}/tmp-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=3
OverTimeLimit=0
SlurmdTimeout=10
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,sched_interval=2,bf_interval=2
GresTypes=gpu
{nodes}
PartitionName=all Nodes=node[1-2] Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeAddr={address} CPUs={cpus} RealMemory=1000 State=UNKNOWN"


def missing():
    """Why there can be no cluster here, or None."""
    absent = [name for name in NEEDED if not shutil.which(name, path=PATH)]
    return f"{', '.join(absent)}: not installed (scripts/setup --tests)" if absent else netns.missing()


class Cluster:
    """with Cluster() as cluster: job = cluster.submit("job.sbatch"); cluster.wait(job)"""

    def __init__(self, cpus=2):
        self.folder = tempfile.mkdtemp(prefix="yxanul-slurm-")
        self.hosts, self.daemons = netns.Hosts(), []
        # Root runs the jobs here, which mpirun refuses unless told twice. More ranks than cores: those that wait leave them to others.
        self.environment = {**os.environ, "PATH": PATH, "SLURM_CONF": f"{self.folder}/slurm.conf",
                            "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                            "OMPI_MCA_mpi_yield_when_idle": "1", "OMPI_MCA_orte_tmpdir_base": self.folder}
        try:
            self._start(cpus)
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind and kind is not SystemExit:
            for name in ("slurmctld", "slurmd-node1", "slurmd-node2"):
                print(f"--- the end of {name}.log\n", *open(f"{self.folder}/{name}.log").readlines()[-25:], sep="", file=sys.stderr)
        self.close()

    def _start(self, cpus):
        os.chmod(self.folder, 0o755)
        for name in ("munge", "state", *(f"{use}-{n}" for use in ("spool", "tmp") for n in netns.ADDRESS)):
            os.mkdir(f"{self.folder}/{name}")
        with open(f"{self.folder}/slurm.conf", "w") as file:
            nodes = "\n".join(NODE.format(name=n, address=a, cpus=cpus) for n, a in netns.ADDRESS.items())
            file.write(CONF.format(folder=self.folder, nodes=nodes))
        # Before Slurm 24.05, version 1 without anything that uses it is the way to touch no cgroups.
        version = subprocess.run(["slurmd", "-V"], capture_output=True, text=True, check=True, env=self.environment).stdout.split()[-1]
        with open(f"{self.folder}/cgroup.conf", "w") as file:
            print("CgroupPlugin=" + ("disabled" if [*map(int, version.split(".")[:2])] >= [24, 5] else "cgroup/v1"), file=file)
        self._start_munge(f"{self.folder}/munge")
        self._daemon("node1", "slurmctld", "-D")
        for name in netns.ADDRESS:
            self._daemon(name, "slurmd", "-D")
        self.until(lambda: self.nodes() == ["idle", "idle"], 30, "the nodes to be idle")

    def _start_munge(self, folder):
        with open(os.open(f"{folder}/key", os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
            file.write(os.urandom(128))
        self._daemon("node1", "munged", "--foreground", f"--socket={folder}/socket", f"--key-file={folder}/key",
                     f"--pid-file={folder}/pid", f"--log-file={folder}/log", f"--seed-file={folder}/seed")
        self.until(lambda: os.path.exists(f"{folder}/socket"), 20, "munge")

    def _daemon(self, host, *command):
        output = open(f"{self.folder}/{command[0]}-{host}.out", "w")
        self.daemons.append(subprocess.Popen(self.hosts[host].enter(*command), stdin=subprocess.DEVNULL, stdout=output,
                                             stderr=output, env=self.environment))

    def close(self):
        """Ends the daemons in good order, then what is left of the hosts."""
        if len(self.daemons) > 1:
            self.command("scontrol", "shutdown", check=False)
        if self.daemons:
            self.hosts["node1"].run("sh", "-c", f"kill $(cat {self.folder}/munge/pid)", check=False)
        for daemon in self.daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()  # its host ends next, and with it what nsenter started
        self.hosts.__exit__()
        shutil.rmtree(self.folder)

    def command(self, *command, check=True, **options):
        """A command on node1; its standard output."""
        return self.hosts["node1"].run(*command, check=check, env=self.environment, **options).stdout

    def until(self, done, seconds, what):
        end = time.time() + seconds
        while not done():
            assert time.time() < end, f"waited {seconds} s for {what}\n{self.command('squeue', check=False)}"
            failed = [d.args for d in self.daemons if d.poll() not in (None, 0)]
            assert not failed, f"ended by itself: {failed}"
            time.sleep(0.1)

    def nodes(self):
        return self.command("sinfo", "-h", "-N", "-o", "%T", check=False).split()

    def submit(self, *command, folder, **variables):
        """sbatch with these arguments and environment variables; the job's number."""
        environment = {**self.environment, **{k: str(v) for k, v in variables.items()}}
        return self.hosts["node1"].run("sbatch", "--parsable", *command, cwd=folder, env=environment).stdout.strip()

    def job(self, job):
        """What scontrol knows of a job: {"JobState": "RUNNING", "Restarts": "0", …}; of an array, of its first record."""
        return dict(re.findall(r"(\w+)=(\S*)", self.command("scontrol", "show", "job", "-o", job).splitlines()[0]))

    def wait(self, job, states=("COMPLETED",), seconds=90):
        """Until the job is in one of `states`; fails at once when it ended otherwise."""
        ended = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"} - {*states}
        def there():
            now = self.job(job)
            assert now["JobState"] not in ended, f"job {job}: {now['JobState']}, exit code {now['ExitCode']}"
            return now["JobState"] in states

        self.until(there, seconds, f"job {job} to be {'/'.join(states)}")
        return self.job(job)


if __name__ == "__main__":
    if missing():
        sys.exit(missing())
    with Cluster() as cluster:
        subprocess.run(cluster.hosts["node1"].enter("bash"), env=cluster.environment)
