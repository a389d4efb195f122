"""tests/test_group.c under mpirun with 2, 3 and 5 ranks; a launcher without MPI's module is refused."""
import os, shutil, subprocess, sys, tempfile

BUILD = os.environ.get("YX_BUILD", "build")


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
    with tempfile.TemporaryDirectory() as folder: # the program without the module beside it, on one of two hosts
        alone = shutil.copy(f"{BUILD}/yxanul", folder)
        done = subprocess.run([alone, "train", "--config", "x.yaml"], capture_output=True, text=True,
                              env={**os.environ, "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0",
                                   "OMPI_COMM_WORLD_LOCAL_SIZE": "1"})
        assert done.returncode == 9 and "MPI is not available" in done.stderr, (done.returncode, done.stderr)
    print("started by mpirun on two hosts without the MPI module: refused with exit code 9")
    return 0


sys.exit(main())
