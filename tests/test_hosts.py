"""Training on two hosts, each with its own network, name and processes (tests/netns.py), by mpirun and without MPI: the bits of the same
ranks on one host. A link that is cut and a host that is lost are named in time, all ranks end, and the run goes on to the same bits."""
import json, os, re, shutil, signal, subprocess, sys, tempfile, time
import netns
from run_fixture import BINARY, ENVIRONMENT, log, make, run

TESTS = os.path.dirname(os.path.abspath(__file__))
PROGRAM = os.path.abspath(BINARY)
RANKS, HALF, STEPS = 4, 2, 234  # ranks 0 and 1 on node1, 2 and 3 on node2
LINK_TIMEOUT, PATIENCE = 3, 20  # seconds: the product's; how much later a busy machine may say it
KEEPALIVE = {"oob_tcp_keepalive_time": 2, "oob_tcp_keepalive_intvl": 1, "oob_tcp_keepalive_probes": 2}  # mpirun's


def bits(out):
    name = open(f"{out}/checkpoints/LATEST").read().strip()
    tensors = json.load(open(f"{out}/checkpoints/{name}/manifest.json"))["tensors"]
    steps = log(out)
    assert len(tensors) > 10 and [s["step"] for s in steps] == list(range(1, STEPS + 1))
    return name, tensors, [(s["loss"], s["token_hash"]) for s in steps]


def train(folder, name):
    return [PROGRAM, "train", "--config", f"{folder}/config.yaml", "--set", f"run_dir={folder}/{name}"]


def on(hosts, rank):
    return hosts["node1" if rank < HALF else "node2"]


def start_by_hand(hosts, folder, name, rendezvous):
    environment = {**ENVIRONMENT, "YX_RANKS": str(RANKS), "YX_RENDEZVOUS": rendezvous, "YX_LINK_TIMEOUT": str(LINK_TIMEOUT),
                   "YX_RENDEZVOUS_TIMEOUT": "60"}
    shell = ["sh", "-c", '"$@"; exit $?', "rank"]  # between nsenter and the rank: nsenter would stop with what it started
    return [subprocess.Popen(on(hosts, r).enter(*shell, *train(folder, name)), env={**environment, "YX_RANK": str(r)},
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for r in range(RANKS)]


def start_by_mpirun(hosts, folder, name, **more):
    agent = f"{sys.executable} {TESTS}/remote_shell.py"
    # TCP between the hosts, whatever other networks this machine has a driver for; ranks that wait leave the core to others.
    settings = {"pml": "ob1", "btl": "self,vader,tcp", "mpi_yield_when_idle": 1, "orte_tmpdir_base": folder, "plm_rsh_agent": agent, **more}
    options = ["--allow-run-as-root", "--host", f"node1:{HALF},node2:{HALF}", "-np", RANKS, "-x", "OMP_NUM_THREADS",
               "-x", "OPENBLAS_NUM_THREADS", *(word for name, value in settings.items() for word in ("--mca", name, value))]
    return [subprocess.Popen(hosts["node1"].enter("mpirun", *options, *train(folder, name)), env=ENVIRONMENT, stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)]


def finish(processes, seconds=120):
    """Each one's exit code and what it said."""
    said = [p.communicate(timeout=seconds)[1] for p in processes]
    return [(p.returncode, text) for p, text in zip(processes, said)]


def hold(hosts, folder, name, step):
    """Stops all ranks once that step is done; their process ids."""
    end = time.time() + 60
    while not os.path.exists(f"{folder}/{name}/log.jsonl") or len(log(f"{folder}/{name}")) < step:
        assert time.time() < end, f"waited for step {step} of {name}"
        time.sleep(0.02)
    held = [pid for host in hosts.host.values() for pid in host.processes("yxanul")]
    assert len(held) == RANKS, held
    for pid in held:
        os.kill(pid, signal.SIGSTOP)
    return held


def release(pids):
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def none_left(hosts):
    end = time.time() + PATIENCE
    while any(host.processes("yxanul") for host in hosts.host.values()):
        assert time.time() < end, "ranks are left"
        time.sleep(0.05)


def test_same_bits(hosts, folder, whole):
    starts = {"by HOST:PORT": lambda n: start_by_hand(hosts, folder, n, "node1:29400"),
              "by a file": lambda n: start_by_hand(hosts, folder, n, f"file:{folder}/meet"),
              "by mpirun": lambda n: start_by_mpirun(hosts, folder, n)}
    for i, (how, start) in enumerate(starts.items()):
        ended = finish(start(f"run{i}"))
        assert all(code == 0 for code, _ in ended), ended
        assert bits(f"{folder}/run{i}") == whole, how
        link, = log(f"{folder}/run{i}", "link")
        assert (link["ranks"], link["hosts"], link["exchange"]) == (RANKS, 2, "mpi" if "mpirun" in how else "tcp"), link
        print(f"two hosts, {RANKS} ranks that meet {how}: the bits of one host")


def test_cut_link(hosts, folder, whole):
    ranks = start_by_hand(hosts, folder, "cut", "node1:29401")
    held = hold(hosts, folder, "cut", 50)
    hosts.link("down")
    cut = time.time()
    release(held)
    ended = finish(ranks)
    took = time.time() - cut
    for r, (code, text) in enumerate(ended):
        far = r"(rank [23] \(node2, 10.86.0.2\))" if r < HALF else r"(rank [01] \(node1, (10.86.0.1|node1)\))"
        assert code == 10 and re.search(f"error: .*{far} has been silent for {LINK_TIMEOUT} s during", text), (r, code, text)
    assert took < LINK_TIMEOUT + PATIENCE, took
    hosts.link("up")
    ended = finish(start_by_hand(hosts, folder, "cut", "node1:29402"))
    assert all(code == 0 for code, _ in ended) and "resumed after step" in ended[0][1], ended
    assert bits(f"{folder}/cut") == whole
    print(f"without MPI, the link cut: every rank named one beyond it and ended with code 10, {took:.1f} s later; resumed to the same bits")


def test_cut_link_mpirun(hosts, folder, whole):
    processes = start_by_mpirun(hosts, folder, "cut-mpi", **KEEPALIVE)
    held = hold(hosts, folder, "cut-mpi", 50)
    hosts.link("down")
    cut = time.time()
    release(held)
    (code, text), = finish(processes)
    took = time.time() - cut
    assert code > 128 and "lost communication" in text and "on node node2" in text, (code, text)  # slurm/job.sh: a lost rank
    none_left(hosts)
    hosts.link("up")
    (code, text), = finish(start_by_mpirun(hosts, folder, "cut-mpi"))
    assert code == 0 and "resumed after step" in text, (code, text)
    assert bits(f"{folder}/cut-mpi") == whole
    print(f"mpirun, the link cut: node2 named and every rank ended, {took:.1f} s later; resumed to the same bits")


def test_lost_host(hosts, folder):
    ranks = start_by_hand(hosts, folder, "lost", "node1:29403")
    held = hold(hosts, folder, "lost", 20)
    hosts["node2"].crash()
    release(held[:HALF])
    for code, text in finish(ranks)[:HALF]:
        assert code == 10 and re.search(r"error: (rank 1: )?rank [23] \(node2, 10.86.0.2\) has (been silent|ended)", text), (code, text)
    print("a host lost: named by the ranks of the other, which end with code 10")


def main():
    why = netns.missing() or (None if shutil.which("mpirun") else "there is no mpirun")
    if why:
        print(f"skipped: {why}")
        return 77
    with tempfile.TemporaryDirectory(prefix="yxanul-two-hosts-") as folder:
        make(folder)
        run(*train(folder, "whole")[1:], ranks=RANKS)
        whole = bits(f"{folder}/whole")
        with netns.Hosts() as hosts:
            shell = [sys.executable, f"{TESTS}/remote_shell.py", "serve"]
            server = subprocess.Popen(hosts["node2"].enter(*shell), stdout=subprocess.PIPE, text=True)  # ends with its host
            assert server.stdout.readline() == "up\n"
            test_same_bits(hosts, folder, whole)
            test_cut_link(hosts, folder, whole)
            test_cut_link_mpirun(hosts, folder, whole)
            test_lost_host(hosts, folder)
    return 0


sys.exit(main())
