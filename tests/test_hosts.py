"""Two hosts (tests/netns.py): a run by mpirun and one whose ranks meet over TCP have the bits of the same ranks on one host; when the link
between the hosts is cut, every rank ends within the timeout, and says who is lost."""
import os, re, shutil, socket, subprocess, sys, tempfile, threading, time
import netns
from run_fixture import BINARY, ENVIRONMENT, log, make, run
from test_ranks import bits, checkpoint

LINK_TIMEOUT = 3        # seconds
STOPPED, LOST = 75, 10  # exit codes
AGENT = """#!{python}
import socket, sys
with socket.socket(socket.AF_UNIX) as s:
    s.connect({path!r})
    s.sendall("\\0".join(sys.argv[1:]).encode())
    s.shutdown(socket.SHUT_WR)
    sys.exit(int(s.recv(16) or 255))
"""


class RemoteShell:
    """What ssh is to mpirun: a program that has a command run on another host. `hosts` cannot see each other's processes, so the one
    that made them starts it."""

    def __init__(self, hosts, folder):
        self.hosts, self.agent = hosts, f"{folder}/agent"
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(f"{folder}/shell")
        self.server.listen()
        with open(self.agent, "w") as file:
            file.write(AGENT.format(python=sys.executable, path=f"{folder}/shell"))
        os.chmod(self.agent, 0o755)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                link, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self._run, args=(link,), daemon=True).start()

    def _run(self, link):
        asked = b""
        while piece := link.recv(65536):
            asked += piece
        host, *command = asked.decode().split("\0")
        done = subprocess.run(self.hosts[host].enter("sh", "-c", " ".join(command)), stdin=subprocess.DEVNULL, env=ENVIRONMENT)
        link.sendall(str(done.returncode & 255).encode())
        link.close()


class Ranks:
    """Ranks that meet over TCP: processes on hosts."""

    def __init__(self, hosts, places, config, out, *arguments):
        self.out = out
        self.processes = [
            subprocess.Popen(hosts[host].enter(BINARY_PATH, "train", "--config", config, "--set", f"run_dir={out}", *arguments),
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                             env={**ENVIRONMENT, "YX_RANK": str(r), "YX_RANKS": str(len(places)), "YX_RENDEZVOUS": "node1:29511",
                                  "YX_LINK_TIMEOUT": str(LINK_TIMEOUT)})
            for r, host in enumerate(places)]

    def end(self):
        errors = [p.communicate(timeout=60)[1] for p in self.processes]
        return [p.returncode for p in self.processes], errors


BINARY_PATH = os.path.abspath(BINARY)


def steps(out):
    return len(log(out)) if os.path.exists(f"{out}/log.jsonl") else 0


def await_steps(out, n, alive):
    end = time.time() + 60
    while steps(out) < n:
        assert time.time() < end and alive(), f"{out}: {steps(out)} steps"
        time.sleep(0.05)


def test_tcp(hosts, config, folder):
    codes, errors = Ranks(hosts, ("node1", "node1", "node2"), config, f"{folder}/tcp").end()
    assert codes == [0, 0, 0], errors
    assert bits(f"{folder}/tcp") == bits(f"{folder}/one3")
    link, = log(f"{folder}/tcp", "link")
    assert (link["ranks"], link["hosts"], link["exchange"]) == (3, 2, "tcp"), link
    print(f"two hosts over TCP: {steps(f'{folder}/tcp')} steps, the bits of three ranks on one host")


def test_cut(hosts, config, folder):
    ranks = Ranks(hosts, ("node1", "node1", "node2"), config, f"{folder}/cut", "training.epochs=20")
    await_steps(ranks.out, 30, lambda: all(p.poll() is None for p in ranks.processes))
    hosts.link("down")
    begun = time.time()
    codes, errors = ranks.end()
    seconds = time.time() - begun
    hosts.link("up")
    assert codes == [LOST] * 3 and seconds < 3 * LINK_TIMEOUT, (codes, seconds, errors)
    lost = [re.findall(r"error: (?:rank \d+: )?rank (\d) \((node\d)[^)]*\) .*", e) for e in errors]
    assert ("2", "node2") in lost[0], errors
    assert lost[2] and all(host == "node1" for _, host in lost[2]), errors
    kept = int(re.search(r"step_0*(\d+)", checkpoint(ranks.out))[1])
    codes, errors = Ranks(hosts, ("node1", "node1", "node2"), config, ranks.out, "training.epochs=20", "--max-steps", "5").end()
    assert codes == [STOPPED] * 3 and f"resumed after step {kept} " in errors[0], errors
    print(f"the link cut: both sides named the other and ended after {seconds:.1f} s (timeout {LINK_TIMEOUT} s); resumed from step {kept}")


def mpirun(hosts, shell, config, out, *sets, **options):
    """One rank a host. Silence on mpirun's own connections counts as loss after about five seconds."""
    keepalive = [word for name, value in (("time", 2), ("intvl", 1), ("probes", 3)) for word in ("--mca", f"oob_tcp_keepalive_{name}", str(value))]
    command = ["mpirun", "--allow-run-as-root", "--host", "node1:1,node2:1", "-np", "2", "--mca", "plm_rsh_agent", shell.agent,
               "--mca", "plm", "rsh", "--mca", "btl", "tcp,self,vader", *keepalive, BINARY_PATH, "train", "--config", config, "--set",
               f"run_dir={out}", *sets]
    return subprocess.Popen(hosts["node1"].enter(*command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env={**ENVIRONMENT, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}, **options)


def test_mpirun(hosts, shell, config, folder):
    started = mpirun(hosts, shell, config, f"{folder}/mpi")
    output, _ = started.communicate(timeout=120)
    assert started.returncode == 0, output
    assert bits(f"{folder}/mpi") == bits(f"{folder}/one2")
    link, = log(f"{folder}/mpi", "link")
    assert (link["ranks"], link["hosts"], link["exchange"]) == (2, 2, "mpi"), link
    print("two hosts by mpirun: the bits of two ranks on one host")


def test_mpirun_cut(hosts, shell, config, folder):
    started = mpirun(hosts, shell, config, f"{folder}/mpi-cut", "training.epochs=20")
    await_steps(f"{folder}/mpi-cut", 30, lambda: started.poll() is None)
    ranks = [pid for host in hosts.host.values() for pid in host.processes("yxanul")]
    assert len(ranks) == 2
    hosts.link("down")
    begun = time.time()
    output, _ = started.communicate(timeout=60)
    while any(os.path.exists(f"/proc/{pid}") for pid in ranks):
        assert time.time() < begun + 60, "a rank is still there"
        time.sleep(0.1)
    seconds = time.time() - begun
    hosts.link("up")
    assert started.returncode != 0 and "node2" in output, (started.returncode, output)
    print(f"the link cut under mpirun: exit code {started.returncode} after {seconds:.1f} s, node2 named, no rank left")


def main():
    if why := netns.missing():
        print(f"skipped: {why}")
        return 77
    folder = tempfile.mkdtemp(prefix="yxanul-hosts-")
    os.chmod(folder, 0o755)
    try:
        config = make(folder)
        for ranks in (2, 3):
            run("train", "--config", config, "--set", f"run_dir={folder}/one{ranks}", ranks=ranks)
        with netns.Hosts() as hosts:
            shell = RemoteShell(hosts, folder)
            test_tcp(hosts, config, folder)
            test_cut(hosts, config, folder)
            test_mpirun(hosts, shell, config, folder)
            test_mpirun_cut(hosts, shell, config, folder)
    finally:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
