"""The container recipes: what they name is in the tree, both make the same thing, and the job scripts' program hands everything on. They
are not built here."""
import os, re, subprocess, tempfile
from run_fixture import ROOT

FOLDER = f"{ROOT}/slurm/container"


def text(name):
    return "".join(line for line in open(f"{FOLDER}/{name}") if not line.startswith("#"))


def test_recipes():
    docker, apptainer, build = text("Dockerfile"), text("yxanul.def"), open(f"{ROOT}/CMakeLists.txt").read()
    version = re.search(r"ARG CUDA=(\S+)", docker)[1]
    images = [i.replace("${CUDA}", version) for i in re.findall(r"^FROM (\S+)", docker, re.M)]
    assert images == re.findall(r"^From: (\S+)", apptainer, re.M) and len(images) == 2, images
    packages = [re.search(r"apt-get install -y --no-install-recommends ([a-z0-9 -]+?)(?: &&|\n)", t)[1] for t in (docker, apptainer)]
    assert packages[0] == packages[1] and set(packages[0].split()) <= set(open(f"{ROOT}/scripts/setup").read().split()), packages
    for recipe in (docker, apptainer):
        scripts = re.findall(r"scripts/\w+", recipe)
        assert scripts == ["scripts/setup", "scripts/bundle"], scripts
        assert all(os.access(f"{ROOT}/{s}", os.X_OK) for s in scripts)
        modules = re.findall(r"yxanul_\w+\.so", recipe)
        assert sorted(modules) == sorted(f"yxanul_{m}.so" for m in re.findall(r"add_library\(yxanul_(\w+) MODULE", build)), modules
    commands = [*re.findall(r"^RUN (.*)", docker, re.M), *re.findall(r"^%post\n((?: .*\n)+)", apptainer, re.M)]
    for command in (*commands, open(f"{FOLDER}/yxanul").read()):
        subprocess.run(["sh", "-n"], input=command, text=True, check=True)
    assert len(commands) == 4, commands
    for named in re.findall(r"slurm/[\w./]+\b", open(f"{FOLDER}/Dockerfile").read() + open(f"{FOLDER}/yxanul.def").read()):
        assert os.path.exists(f"{ROOT}/{named}"), named
    print(f"two recipes, the same images ({version}), packages and steps")


def test_program():
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/apptainer", "w") as file:
            file.write('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 75\n')
        os.chmod(f"{folder}/apptainer", 0o755)
        environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
        command = [f"{FOLDER}/yxanul", "train", "--set", "a=b c"]
        done = subprocess.run(command, capture_output=True, text=True, env={**environment, "YX_IMAGE": "x.sif", "YX_BIND": "/data"}, cwd=folder)
        bind = f"{os.path.realpath(folder)},/data"
        assert done.stdout.splitlines() == ["run", "--nv", "--bind", bind, "x.sif", *command[1:]] and done.returncode == 75, done
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode != 0 and "set YX_IMAGE" in done.stderr, done
    print("the program of the job scripts: arguments and exit code go through")


test_recipes()
test_program()
