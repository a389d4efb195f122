"""The job scripts of slurm/ on a real Slurm of two nodes (tests/slurm_cluster.py), with CPU ranks: stopped by the time limit's warning,
by a signal, by scancel, by a node that is lost. Requeued or chained, each run ends with the bits of one that nothing disturbed."""
import json, os, re, shutil, signal, sys, tempfile, time
import slurm_cluster
from run_fixture import BINARY, ROOT, log, make, run


def tensors(run_folder):
    """The newest checkpoint's name and its tensors with their checksums."""
    name = open(f"{run_folder}/checkpoints/LATEST").read().strip()
    manifest = json.load(open(f"{run_folder}/checkpoints/{name}/manifest.json"))
    assert len(manifest["tensors"]) > 10
    return name, manifest["tensors"]


class Job:
    """A job script, submitted with a run folder of its own."""

    def __init__(self, cluster, folder, script, name, *options, ranks=2, arguments=(), **variables):
        self.cluster, self.run, self.text = cluster, f"{folder}/{name}", f"{folder}/{name}.out"
        self.command = [f"--ntasks-per-node={ranks}", "--gpus-per-node=0", "--cpus-per-task=1", f"--output={self.text}", *options,
                        f"{ROOT}/slurm/{script}", *arguments]
        self.variables = {"YX_BINARY": os.path.abspath(BINARY), "YX_CONFIG": f"{folder}/config.yaml",
                          "YX_RUN_DIR": self.run, "YX_DEVICE": "cpu", **variables}
        self.submit()

    def submit(self):
        elsewhere = "YX_ROOT" in self.variables
        self.id = self.cluster.submit(*self.command, folder="/" if elsewhere else ROOT, **self.variables)

    def output(self):
        return open(self.text).read() if os.path.exists(self.text) else ""

    def steps(self):
        return len(log(self.run)) if os.path.exists(f"{self.run}/log.jsonl") else 0

    def until(self, done, seconds, what):
        try:
            self.cluster.until(done, seconds, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; its output:\n{self.output()}")

    def reach(self, step):
        self.until(lambda: self.steps() >= step, 60, f"step {step} of {self.run}")

    def wait(self, *states, **options):
        try:
            return self.cluster.wait(self.id, states, **options)
        except AssertionError as error:
            raise AssertionError(f"{error}; its output:\n{self.output()}")

    def warn(self):
        """What Slurm does before the time limit (--signal=B:USR1@…). Of an array, the element that runs, which has a number of its
        own: there scancel delivers the signal, is told to try again all the same, and would wait for five seconds."""
        number = re.findall(r" job (\d+), start", self.output())[-1]
        self.cluster.command("timeout", "1", "scancel", "--batch", "--signal=USR1", number, check=number == self.id)

    def ranks(self):
        return [pid for host in self.cluster.hosts.host.values() for pid in host.processes("yxanul")]


def same_run(job, whole):
    assert tensors(job.run) == tensors(whole), "other bits than the undisturbed run's"
    assert [(s["step"], s["loss"]) for s in log(job.run)] == [(s["step"], s["loss"]) for s in log(whole)]


def test_time_limit(cluster, folder, script):
    """Slurm itself warns before the limit of a minute. The ranks would be done by then: they are held at step 40 until it does (on a
    busy machine the warning may come before)."""
    job = Job(cluster, folder, script, "limit", "--time=1", "--signal=B:USR1@40", ranks=1)
    warned = lambda: "Slurm's warning" in job.output()
    job.until(lambda: job.steps() >= 40 or warned(), 60, "step 40")
    held = [] if warned() else job.ranks()
    assert warned() or len(held) == 2, held
    for pid in held:
        os.kill(pid, signal.SIGSTOP)
    job.until(warned, 60, "Slurm's warning")
    for pid in held:
        os.kill(pid, signal.SIGCONT)
    job.until(lambda: "requeued" in job.output(), 20, "the requeue")
    stopped = int(re.search(r"stopped after step (\d+) of", job.output())[1])
    ended = job.wait("COMPLETED", seconds=60)
    assert int(ended["Restarts"]) >= 1 and f"resumed after step {stopped} " in job.output(), (ended, job.output())
    same_run(job, f"{folder}/whole2")
    print(f"{script}, two nodes: warned before the time limit, stopped at step {stopped}, requeued, completed: same bits")


def test_signal(cluster, folder, script, name, mark, ranks):
    """The warning by hand, twice."""
    job = Job(cluster, folder, script, name, ranks=ranks)
    stops = []
    for step in (30, 90):
        job.reach(step)
        job.warn()
        job.until(lambda: job.output().count("requeued") == len(stops) + 1, 20, "the requeue")
        stops.append(job.steps())
    assert job.wait("COMPLETED", seconds=60)["Restarts"] == "2"
    assert all(f"resumed after step {s}" in job.output() for s in stops) and mark in job.output(), job.output()
    same_run(job, f"{folder}/whole{4 if ranks == 2 else 2}")
    print(f"{script}: stopped at steps {stops}, requeued, completed: same bits")


def test_one_node(cluster, folder):
    """Without requeue the job ends with exit code 75; scancel is never answered by a requeue; submitted again it continues."""
    job = Job(cluster, folder, "one_node.sbatch", "one", YX_REQUEUE=0)
    job.reach(20)
    job.warn()
    assert job.wait("FAILED")["ExitCode"] == "75:0"
    stops = [job.steps()]
    job.variables["YX_REQUEUE"] = 1
    job.submit()
    job.reach(60)
    cluster.command("scancel", job.id)
    job.wait("CANCELLED")
    job.until(lambda: not job.ranks(), 20, "the ranks to end")
    stops.append(job.steps())
    time.sleep(1)
    assert "cancelled by Slurm" in job.output() and cluster.job(job.id)["JobState"] == "CANCELLED" and "requeued" not in job.output()
    job.submit()
    assert job.wait("COMPLETED")["Restarts"] == "0"
    assert f"resumed after step {stops[0]}" in job.output() and job.output().count("resumed after") == 2, job.output()
    same_run(job, f"{folder}/whole2")
    print(f"one_node.sbatch: exit code 75 at step {stops[0]}, scancel at {stops[1]}, submitted again: same bits")


def test_chain(cluster, folder, launcher):
    """Each element of the array goes on where the one before it stopped; the one that completes the run ends the chain."""
    job = Job(cluster, folder, "chain.sbatch", "chain", "--array=1-4%1", ranks=1, YX_LAUNCHER=launcher, YX_ROOT=ROOT)
    stops = []
    for element in (1, 2):
        job.reach(50 * element)
        job.warn()
        job.until(lambda: job.output().count("ended with exit code 75") == element, 20, "the element's end")
        stops.append(job.steps())
    job.until(lambda: "ended with exit code 0" in job.output(), 40, "the run's end")
    job.until(lambda: not cluster.command("squeue", "-h", "-j", job.id, check=False).strip(), 20, "the end of the chain")
    assert job.output().count(", start 1,") == 3 and "the rest of the chain is not needed" in job.output(), job.output()
    states = cluster.command("scontrol", "show", "job", "-o", f"{job.id}_4")
    assert "JobState=CANCELLED" in states, states
    same_run(job, f"{folder}/whole2")
    print(f"chain.sbatch: elements ended at steps {stops}, the third completed, the fourth was taken away: same bits")


def test_failure(cluster, folder):
    """What would only happen again is not tried again."""
    chain = ("chain.sbatch", ["--array=1-2%1"])
    for script, options, variables in (("nodes_tcp.sbatch", [], {}), (*chain, {}), (*chain, {"YX_LAUNCHER": "mpirun"})):
        job = Job(cluster, folder, script, f"failure-{script}{len(variables)}", *options, **variables,
                  arguments=["--set", "training.epochs=nonsense"])
        job.until(lambda: "ended with exit code" in job.output(), 30, "the end")
        job.until(lambda: not cluster.command("squeue", "-h", "-j", job.id, check=False).strip(), 20, "an empty queue")
        states = cluster.command("scontrol", "show", "job", "-o", job.id)  # the chain: also its second element
        assert states.count("JobState=FAILED") == states.count("ExitCode=3:0") == 1, states
        assert ("JobState=CANCELLED" in states) == (script == "chain.sbatch"), states
        assert job.output().count("error: --set training.epochs=nonsense") == 1, job.output()
    print("a wrong configuration: exit code 3, nothing is requeued, the chain ends")


def test_bounds(cluster, folder):
    """A job is not requeued more than YX_MAX_RESTARTS times, and not for a rank that is lost soon after the start."""
    job = Job(cluster, folder, "one_node.sbatch", "bounds", YX_MAX_RESTARTS=0)
    job.reach(20)
    job.warn()
    assert job.wait("FAILED")["ExitCode"] == "75:0" and "requeued 0 times, YX_MAX_RESTARTS=0" in job.output(), job.output()
    before = job.steps()
    job.submit()
    job.reach(before + 20)
    os.kill(job.ranks()[1], signal.SIGKILL)
    job.wait("FAILED")
    assert "within YX_RETRY_AFTER=600: not tried again" in job.output() and "has ended during" in job.output(), job.output()
    print("restarts are bounded: by their number, and where a rank is lost soon after the start")


def test_lost_node(cluster, folder):
    """The link to a node is cut: the rank there is named, the job goes back to the queue, and completes when the node is back."""
    job = Job(cluster, folder, "nodes_tcp.sbatch", "lost", ranks=1, YX_LINK_TIMEOUT=3, YX_RETRY_AFTER=1, SLURM_WAIT=2)
    job.reach(60)
    cluster.hosts.link("down")
    job.until(lambda: cluster.job(job.id)["JobState"] != "RUNNING", 60, "the end of the job")
    assert re.search(r"rank 1 \(node 1, 10.86.0.2\) has been silent for 3 s", job.output()), job.output()
    stopped = job.steps()
    cluster.hosts.link("up")
    assert job.wait("COMPLETED", seconds=90)["Restarts"] == "1"
    kept = int(re.search(r"resumed after step (\d+)", job.output())[1])
    assert kept <= stopped < 234, (kept, stopped)
    same_run(job, f"{folder}/whole2")
    print(f"a node lost after step {stopped}: named, requeued, completed from the checkpoint of step {kept}: same bits")


def main():
    why = slurm_cluster.missing()
    if why:
        print(f"skipped: {why}")
        return 77
    folder = tempfile.mkdtemp(prefix="yxanul-jobs-")
    try:
        config = make(folder)
        for ranks in (2, 4):
            run("train", "--config", config, "--set", f"run_dir={folder}/whole{ranks}", ranks=ranks)
        with slurm_cluster.Cluster() as cluster:
            has_pmix = "pmix" in cluster.command("srun", "--mpi=list")
            if not has_pmix:
                print("this Slurm has no PMIx: nodes_pmix.sbatch is not tried")
            test_signal(cluster, folder, "nodes_tcp.sbatch", "tcp", "--mpi=none", ranks=2)
            test_signal(cluster, folder, "nodes_mpirun.sbatch", "mpirun", "mpirun --bind-to none", ranks=1)
            test_one_node(cluster, folder)
            test_chain(cluster, folder, "pmix" if has_pmix else "mpirun")
            test_failure(cluster, folder)
            test_bounds(cluster, folder)
            test_time_limit(cluster, folder, "nodes_pmix.sbatch" if has_pmix else "nodes_tcp.sbatch")
            test_lost_node(cluster, folder)
    finally:
        shutil.rmtree(folder)
    return 0


sys.exit(main())
