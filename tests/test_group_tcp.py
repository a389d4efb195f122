"""Groups over TCP: tests/test_group.c started by hand, as srun would without PMI, and by mpirun without MPI; training with 1 rank and with
3 reads the same tokens; ranks that do not fit, do not come, end or fall silent are named, and all others end too."""
import os, shutil, socket, subprocess, sys, tempfile, time
from run_fixture import BINARY, ENVIRONMENT, log, make, run

BUILD = os.environ.get("YX_BUILD", "build")
PROGRAM = next(os.path.abspath(p) for p in (f"{BUILD}/test_group", f"{BUILD}/tests/test_group") if os.path.exists(p))
COMM = 10


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(ranks, rendezvous, command=(PROGRAM,), only=None, **more):
    """Processes of these ranks, started by hand."""
    return [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             env={**ENVIRONMENT, "YX_RANK": str(r), "YX_RANKS": str(ranks), "YX_RENDEZVOUS": rendezvous,
                                  "EXPECTED_BACKEND": "tcp", "EXPECTED_RANKS": str(ranks), **more}) for r in (range(ranks) if only is None else only)]


def finish(processes, timeout=60):
    ended = [(p.communicate(timeout=timeout)[0], p.returncode) for p in processes]
    return ended


def passed(ended):
    for text, code in ended:
        assert code == 0 and "[  PASSED  ] 5 test(s)." in text, text


def test_meeting(folder):
    for ranks in (2, 3, 5):
        passed(finish(start(ranks, f"localhost:{free_port()}")))
        passed(finish(start(ranks, f"file:{folder}/meet{ranks}")))
        assert not os.path.exists(f"{folder}/meet{ranks}")
    print("2, 3 and 5 ranks met at a port and by a file; every rank passed")
    # A file that another start left: nobody listens there, or somebody else does.
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        with open(f"{folder}/old", "w") as file:
            file.write(f"{other.getsockname()[1]}\n127.0.0.1\n")
        late = start(2, f"file:{folder}/old", only=[1], YX_RENDEZVOUS_TIMEOUT="40")
        time.sleep(1)
        other.close()
        passed(finish(late + start(2, f"file:{folder}/old", only=[0])))
    print("an old file does not mislead")


def test_launchers(folder):
    environment = {k: v for k, v in ENVIRONMENT.items() if not k.startswith(("PMI", "OMPI", "SLURM"))}
    step = {"SLURM_STEP_NUM_TASKS": "3", "SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NODEID": "0", "EXPECTED_BACKEND": "tcp", "EXPECTED_RANKS": "3"}
    passed(finish([subprocess.Popen([PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                    env={**environment, **step, "SLURM_PROCID": str(r)}) for r in range(3)]))
    print("started as srun does without PMI: TCP, at the first node's port of this job")
    if shutil.which("mpirun"):
        alone = shutil.copy(PROGRAM, folder)  # without the module beside it
        done = subprocess.run(["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "3", alone], capture_output=True, text=True,
                              env={**ENVIRONMENT, "EXPECTED_BACKEND": "tcp"}, timeout=60)
        assert done.returncode == 0 and (done.stdout + done.stderr).count("[  PASSED  ] 5 test(s).") == 3, done.stdout + done.stderr
        print("mpirun without MPI's module: TCP")


def test_refusals(folder):
    port = free_port()
    ended = finish(start(2, f"localhost:{port}", only=[0]) + start(3, f"localhost:{port}", only=[1]))
    assert all(code == 1 and "rank 1 was started as one of 3, rank 0 as one of 2" in text for text, code in ended), ended
    ended = finish(start(3, f"localhost:{free_port()}", only=[0], YX_RENDEZVOUS_TIMEOUT="2"))
    assert "rank 1, 2 of 3 did not come to localhost:" in ended[0][0] and "within 2 s" in ended[0][0], ended
    ended = finish(start(3, f"localhost:{free_port()}", only=[2], YX_RENDEZVOUS_TIMEOUT="2"))
    assert "rank 2 of 3 did not meet rank 0 at localhost:" in ended[0][0], ended
    ended = finish(start(3, f"file:{folder}/never", only=[2], YX_RENDEZVOUS_TIMEOUT="1"))
    assert "the file never came" in ended[0][0], ended
    ended = finish(start(2, "nonsense", only=[0]))
    assert "neither HOST:PORT nor file:PATH" in ended[0][0], ended
    for name, value in (("YX_LINK_TIMEOUT", "10m"), ("YX_COMM_TIMEOUT", "-5"), ("YX_RENDEZVOUS_TIMEOUT", "inf")):
        ended = finish(start(2, f"file:{folder}/never", only=[0], **{name: value}))
        assert ended[0][1] == 1 and f"{name}={value} is not a number of seconds" in ended[0][0], ended
    # Another start's rank at this port is turned away, and does not disturb.
    port = free_port()
    ours = start(2, f"localhost:{port}", only=[0], YX_TOKEN="ours")
    stray = start(2, f"localhost:{port}", only=[1], YX_TOKEN="another", YX_RENDEZVOUS_TIMEOUT="3")
    time.sleep(0.5)
    passed(finish(ours + start(2, f"localhost:{port}", only=[1], YX_TOKEN="ours")))
    assert finish(stray)[0][1] == 1
    print("ranks that do not fit or do not come: said, on every rank that is there")


def test_losses(folder):
    ended = finish(start(3, f"localhost:{free_port()}", command=(PROGRAM, "leave")))
    assert [code for _, code in ended] == [COMM, 3, COMM], ended  # both name the first that ended, also the one that comes later
    assert all("rank 1 (" in ended[r][0] and ") has ended during gathering" in ended[r][0] for r in (0, 2)), ended
    processes = start(3, f"localhost:{free_port()}", command=(PROGRAM, "sleep"), YX_COMM_TIMEOUT="2")
    ended = finish([processes[0], processes[2]])
    processes[1].kill()
    assert all("rank 1 (" in text and "did not come to gathering within 2 s" in text for text, _ in ended), ended
    assert all(code == COMM for _, code in ended), ended
    print("a rank that ends, and one that does not come in time: named by the others, which end with code 10")


def test_training(folder):
    """The same tokens in every step, the same losses but for rounding, whoever carries the sums."""
    make(folder)
    sets = ["--max-steps", "6", "--set", "training.micro_batch_tokens=512"]
    run("train", "--config", f"{folder}/config.yaml", *sets, f"run_dir={folder}/alone", check=75)
    command = (BINARY, "train", "--config", f"{folder}/config.yaml", *sets, f"run_dir={folder}/three")
    ended = finish(start(3, f"localhost:{free_port()}", command=command), 120)
    assert all(code == 75 for _, code in ended), ended
    alone, three = log(f"{folder}/alone"), log(f"{folder}/three")
    assert [s["token_hash"] for s in alone] == [s["token_hash"] for s in three] and len(three) == 6
    assert max(abs(a["loss"] - b["loss"]) for a, b in zip(alone, three)) < 1e-5
    # A rank that is killed takes the others with it, with a reason.
    command = (BINARY, "train", "--config", f"{folder}/config.yaml", "--set", f"run_dir={folder}/killed")
    processes = start(3, f"localhost:{free_port()}", command=command)
    deadline = time.time() + 60
    while time.time() < deadline and not (os.path.exists(f"{folder}/killed/log.jsonl") and len(log(f"{folder}/killed")) > 2):
        time.sleep(0.05)
    processes[2].kill()
    ended = finish(processes, 60)
    assert ended[2][1] == -9 and all(code == COMM and "rank 2 (" in text for text, code in ended[:2]), ended
    print("3 ranks over TCP train as one does; a killed one is named")


def main():
    with tempfile.TemporaryDirectory() as folder:
        test_meeting(folder)
        test_launchers(folder)
        test_refusals(folder)
        test_losses(folder)
        test_training(folder)


main()
