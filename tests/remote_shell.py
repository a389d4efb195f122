"""What mpirun needs of ssh, between the two hosts of tests/netns.py: runs a command line on another host, brings its output and exit code.
   remote_shell.py serve             on the host where commands shall run
   remote_shell.py HOST COMMAND…     from another one"""
import socket, subprocess, sys, threading

PORT = 514


def answer(connection):
    with connection, connection.makefile("rw") as stream:
        done = subprocess.run(["sh", "-c", stream.readline()], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
        stream.write(f"{done.returncode}\n{done.stdout}")


def serve():
    with socket.create_server(("", PORT)) as listener:
        print("up", flush=True)
        while True:
            threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()


def ask(host, command):
    with socket.create_connection((host, PORT)) as connection, connection.makefile("rw") as stream:
        stream.write(command.replace("\n", " ") + "\n")
        stream.flush()
        code = stream.readline()
        sys.stdout.write(stream.read())
        return int(code or 255)


if __name__ == "__main__":
    sys.exit(serve() if sys.argv[1] == "serve" else ask(sys.argv[1], " ".join(sys.argv[2:])))
