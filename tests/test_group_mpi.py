"""tests/test_group.c under mpirun with 2, 3 and 5 ranks; a launcher without MPI's module is refused."""
import glob, os, re, shutil, signal, subprocess, sys, tempfile, time
from run_fixture import BINARY, ENVIRONMENT, log, make

BUILD, COMM = os.environ.get("YX_BUILD", "build"), 10


def mpirun(ranks, *command, **environment):
    return ["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", str(ranks), *command], {**ENVIRONMENT, **environment}


def process_of(rank, folder):
    """The process of a rank that trains in this folder."""
    for path in glob.glob("/proc/[0-9]*/environ"):
        try:
            environment, command = open(path, "rb").read(), open(f"{os.path.dirname(path)}/cmdline", "rb").read()
        except OSError:
            continue
        if f"OMPI_COMM_WORLD_RANK={rank}\0".encode() in environment and folder.encode() in command and b"mpirun" not in command:
            return int(path.split("/")[2])
    raise AssertionError(f"no process of rank {rank}")


def test_hang(program):
    """A rank that lives but does not come: the others name it, and all end with exit code 10."""
    command, environment = mpirun(3, program, "sleep", YX_COMM_TIMEOUT="2")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == COMM, (done.returncode, done.stderr)
    assert re.search(r"rank [02]: rank 1 \(\S+\) did not come to gathering within 2 s", done.stderr), done.stderr
    with tempfile.TemporaryDirectory() as folder:
        config = make(folder)
        command, environment = mpirun(3, BINARY, "train", "--config", config, YX_COMM_TIMEOUT="2")
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        while not os.path.exists(f"{folder}/run/log.jsonl") or len(log(f"{folder}/run")) < 3:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        os.kill(process_of(1, folder), signal.SIGSTOP)
        error = process.communicate(timeout=60)[1]
        assert process.returncode == COMM, (process.returncode, error)
        assert re.search(r"^error: (rank 2: )?rank 1 \(\S+\) did not come to .+ within 2 s", error, re.M), error
    print("a rank that hangs, and one that is stopped while it trains: named by the others")


def main():
    if not shutil.which("mpirun"):
        print("skipped: there is no mpirun")
        return 77
    program = next(p for p in (f"{BUILD}/test_group", f"{BUILD}/tests/test_group") if os.path.exists(p))
    for ranks in (2, 3, 5):
        done = subprocess.run(["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", str(ranks), program],
                              capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        assert (done.stdout + done.stderr).count("[  PASSED  ] 5 test(s).") == ranks, done.stdout + done.stderr
        print(f"{ranks} ranks: every rank passed")
    test_hang(program)
    with tempfile.TemporaryDirectory() as folder: # the program without the module beside it, on one of two hosts
        alone = shutil.copy(f"{BUILD}/yxanul", folder)
        done = subprocess.run([alone, "train", "--config", "x.yaml"], capture_output=True, text=True,
                              env={**os.environ, "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0",
                                   "OMPI_COMM_WORLD_LOCAL_SIZE": "1"})
        assert done.returncode == 9 and "MPI is not available" in done.stderr, (done.returncode, done.stderr)
    print("started by mpirun on two hosts without the MPI module: refused with exit code 9")
    return 0


sys.exit(main())
