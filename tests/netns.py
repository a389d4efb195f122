"""Two hosts on one machine: each has its own network, name, processes, /dev/shm and /run; a switch joins them. Root only."""
import os, subprocess, sys, tempfile, time

ADDRESS = {"node1": "10.86.0.1", "node2": "10.86.0.2"}
DEVICE = "veth0"  # each host's end of its cable; the other is a port of the switch that has the host's name
# A host's first process: gathers the processes that lose their parent, ends (and with it the host) when the test does.
INIT = "import signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); print('up', flush=True); sys.stdin.read()"


def missing():
    """Why two hosts cannot be made here, or None."""
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    probe = "ip link add yxprobe0 type veth peer name yxprobe1 && ip link add yxprobe2 type bridge"
    try:
        done = subprocess.run(["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", probe],
                              capture_output=True, text=True)
    except FileNotFoundError as error:
        return f"{error.filename} is not installed (scripts/setup --tests)"
    return None if done.returncode == 0 else f"no network namespaces here: {done.stderr.strip()}"


class Host:
    def __init__(self, name, hosts_file):
        self.name, self.address = name, ADDRESS.get(name)
        self.keeper = subprocess.Popen(["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc",
                                        "--kill-child", sys.executable, "-c", INIT], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, text=True)
        assert self.keeper.stdout.readline() == "up\n"
        children = f"/proc/{self.keeper.pid}/task/{self.keeper.pid}/children"
        self.pid = int(open(children).read().split()[0])
        self.run("sh", "-c", f"hostname {name} && mount --bind {hosts_file} /etc/hosts && mount -t tmpfs none /dev/shm"
                             " && mount -t tmpfs none /run && ip link set lo up")

    def enter(self, *command, cwd="/"):
        """The command line that runs `command` on this host."""
        return ["nsenter", f"--target={self.pid}", "--net", "--uts", "--mount", "--pid", f"--wd={cwd}", *map(str, command)]

    def run(self, *command, check=True, timeout=60, cwd="/", **options):
        done = subprocess.run(self.enter(*command, cwd=cwd), capture_output=True, text=True, timeout=timeout, **options)
        if check and done.returncode != 0:
            raise AssertionError(f"{self.name}: {' '.join(map(str, command))}: exit code {done.returncode}\n"
                                 f"{done.stdout}{done.stderr}")
        return done

    def processes(self, name):
        """This machine's ids of the host's processes of that program (not the ids that the host itself sees)."""
        space, found = os.readlink(f"/proc/{self.pid}/ns/pid"), []
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{entry}/ns/pid") == space and open(f"/proc/{entry}/comm").read().strip() == name:
                    found.append(int(entry))
            except OSError:
                pass  # it ended meanwhile
        return found

    def crash(self):
        """All its processes die at once."""
        self.keeper.kill()
        self.keeper.wait()


class Hosts:
    """with Hosts() as hosts: hosts["node1"].run("hostname")"""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="yxanul-hosts-")
        path = f"{self.folder.name}/hosts"
        with open(path, "w") as file:
            file.write("127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for n, a in ADDRESS.items()))
        self.host = {name: Host(name, path) for name in ADDRESS}
        self.switch = Host("switch", path)
        self.switch.run("sh", "-c", "ip link add bridge type bridge && ip link set bridge up")
        for host in self.host.values():
            subprocess.run(["ip", "link", "add", DEVICE, "netns", str(host.pid), "type", "veth", "peer", "name", host.name, "netns",
                            str(self.switch.pid)], check=True)
            host.run("ip", "address", "add", f"{host.address}/24", "dev", DEVICE)
            host.run("ip", "link", "set", DEVICE, "up")
            self.switch.run("ip", "link", "set", host.name, "master", "bridge", "up")
        self.wait_for_link()

    def __getitem__(self, name):
        return self.host[name]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for host in (*self.host.values(), self.switch):
            host.crash()
        self.folder.cleanup()

    def link(self, state):
        """Cuts ("down") or joins ("up") the way between the two: neither notices anything but silence."""
        self.switch.run("ip", "link", "set", "node2", *(["nomaster"] if state == "down" else ["master", "bridge"]))

    def wait_for_link(self):
        end = time.time() + 20
        while not all("state UP" in h.run("ip", "link", "show", DEVICE).stdout for h in self.host.values()):
            assert time.time() < end, "the links of the hosts do not come up"
            time.sleep(0.05)
