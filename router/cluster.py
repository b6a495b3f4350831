"""Nodes and a router on servers of their own, for what checks them. CREDITS_LEDGER_BIN has the programs of a server on which credits_ledger,
credits_ledger_router and PL/Proxy are installed."""

import os
import re
import socket
import subprocess
import sys
import time
import uuid
from contextlib import ExitStack
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PRODUCT = FOLDER.parent
NAME = f"router/{Path(sys.argv[0]).name}"
BIN = Path(os.environ["CREDITS_LEDGER_BIN"])
NODES = ["node1", "node2", "node3"]
PASSWORD = "a 'secret' \\ with a backslash"
ACCOUNTS = [str(uuid.UUID(int=number << 80 | 0x4000 << 64 | 0x8000 << 48 | number)) for number in range(1, 31)]


class Server:
    """A cluster of its own, with a password on its port, and trust on its socket."""

    def __init__(self, name, running):
        self.name, self.database, self.port = name, name, free_port()
        # Those of another check are left alone.
        cluster = f"router-{Path(sys.argv[0]).name}-{name}"
        tool("stop", cluster)
        running.callback(tool, "stop", cluster)
        self.folder = Path(tool("start", cluster, BIN / "pg_config", str(self.port)))
        self.data = self.folder / "data"
        # Its database has the name of the cluster.
        self.sql(f'ALTER DATABASE "{cluster}" RENAME TO {name}', database="postgres")

    def command(self, user="postgres", database=None):
        return [BIN / "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", self.folder, "-p", str(self.port), "-U", user, database or self.database]

    def sql(self, statements, user="postgres", database=None):
        """What psql answers, unaligned."""
        done = subprocess.run(self.command(user, database), input=statements, text=True, capture_output=True)
        if done.returncode:
            sys.exit(f"{NAME}: {self.name}: {statements}\n{done.stderr}")
        return done.stdout.strip()

    def script(self, file):
        self.sql(f"\\i {file}")

    def refusal(self, statements, user="postgres"):
        """SQLSTATE, message, detail and hint of the error that it must be."""
        done = subprocess.run(
            [*self.command(user), "-v", "VERBOSITY=verbose"], input=statements, text=True, capture_output=True
        )
        if done.returncode == 0:
            sys.exit(f"{NAME}: {self.name}: {statements}: not refused: {done.stdout}")
        return {
            kind: text
            for kind, text in re.findall(r"^(?:psql:\S+: )?(ERROR|DETAIL|HINT):\s+(.*)$", done.stderr, re.MULTILINE)
        }

    def control(self, *words):
        as_server_user(BIN / "pg_ctl", *words, "--wait", "-D", self.data, "-l", self.folder / "server.log")

    def stop(self):
        self.control("stop", "-m", "immediate")

    def restart(self):
        """After a crash."""
        self.stop()
        self.start()

    def start(self):
        self.control(
            "start", "-o", f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories='{self.folder}'"
        )  # fmt: skip


class Standby(Server):
    """What a server had at a moment, at another port: it has lost what came later. One that follows gets that, too, and takes over when it is promoted."""

    def __init__(self, node, running, follows=False):
        self.name, self.database, self.port, self.running = node.name, node.database, free_port(), running
        self.folder, self.data = node.folder, node.folder / f"standby-{self.port}"
        node_is = f"host={node.folder} port={node.port} user=postgres"
        as_server_user(BIN / "pg_basebackup", "-d", node_is, "-D", self.data, "-c", "fast", *(["-R"] if follows else []))

    def start(self):
        super().start()
        self.running.callback(lambda: (self.data / "postmaster.pid").exists() and self.stop())

    def promote(self):
        self.control("promote")


class Session:
    """A psql that stays."""

    def __init__(self, server, running, user="postgres"):
        self.process = subprocess.Popen(
            [part for part in server.command(user) if part not in ("-v", "ON_ERROR_STOP=1")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        running.callback(self.close)
        self.pid = self.ask("SELECT pg_backend_pid()")

    def send(self, statements):
        self.process.stdin.write(f"{statements};\n\\echo --done--\n")
        self.process.stdin.flush()

    def receive(self):
        """What it answers; of a psql that has lost its connection, what it has said about that."""
        lines = []
        while (line := self.process.stdout.readline()) not in ("--done--\n", ""):
            lines.append(line.rstrip("\n"))
        return "\n".join(lines)

    def ask(self, statements):
        self.send(statements)
        return self.receive()

    def close(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            # Of a check that has failed: it waits for a lock of a session that is closed after it.
            self.process.kill()
            self.process.wait()


class Client:
    """A psql that connects again."""

    def __init__(self, server, user, database=None):
        self.server, self.user, self.database, self.process = server, user, database, None

    def tell(self, command):
        """The lines that it answers, None if it is gone."""
        lines = []
        try:
            self.process.stdin.write(f"{command}\n\\echo --done--\n")
            self.process.stdin.flush()
            while (line := self.process.stdout.readline()) not in ("--done--\n", ""):
                lines.append(line.strip())
        except BrokenPipeError:
            line = ""
        return lines if line else None

    def ask(self, statement):
        """What it answers, or the SQLSTATE of the error."""
        if self.process is None or self.process.poll() is not None:
            command = [part for part in self.server.command(self.user, self.database) if part not in ("-v", "ON_ERROR_STOP=1")]
            self.process = subprocess.Popen([*command, "-v", "VERBOSITY=sqlstate"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        lines = self.tell(f"{statement};")
        if lines is None:
            self.process.wait()
            return None, "08006"
        # PL/Proxy passes on what a node has said last on a connection that broke.
        lines = [line for line in lines if not line.startswith("WARNING:")]
        if any("server closed the connection" in line or "connection to server" in line for line in lines):
            return None, "08006"
        errors = [line.split()[1] for line in lines if line.startswith(("ERROR:", "FATAL:"))]
        return ("\n".join(lines), None) if not errors else (None, errors[0])

    def error(self):
        """The last error, a line each: its message, detail and hint."""
        return [line for line in self.tell("\\errverbose") or [] if line.startswith(("ERROR:", "DETAIL:", "HINT:"))]

    def insist(self, statement):
        """Asks until it is answered."""
        for _ in range(600):
            answer, sqlstate = self.ask(statement)
            if sqlstate is None:
                return answer
            time.sleep(0.2)
        raise RuntimeError(f"{statement}: {sqlstate} for 120 s")

    def close(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def tool(*words):
    done = subprocess.run([PRODUCT / "tools/postgres.sh", *words], text=True, stdout=subprocess.PIPE, check=True)
    return done.stdout.strip()


def as_server_user(*command):
    if os.getuid() == 0:
        user = tool("user")
        command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--reset-env", *command]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def expect(what, seen, expected):
    if seen != expected:
        sys.exit(f"{NAME}: {what} is\n{seen}\nand not\n{expected}")


def until(what, ask):
    for _ in range(600):
        if ask():
            return
        time.sleep(0.05)
    sys.exit(f"{NAME}: waited 30 s for {what}")


class Nodes:
    """The servers, and a ledger that is spread over them."""

    def __init__(self, running):
        self.running, self.nodes = running, {}
        for name in NODES:
            self.start(name)
        self.router = Server("router", running)
        router = self.router
        router.sql("SET client_min_messages = warning; CREATE EXTENSION credits_ledger_router CASCADE")
        router.script(FOLDER / "roles.sql")
        router.sql("CREATE ROLE app LOGIN IN ROLE credits_charger, credits_limiter; CREATE ROLE outsider LOGIN IN ROLE credits_charger")
        # A node by itself first: those that come later let in whoever was let in before.
        self.add("node1", 1)
        router.sql(f"SELECT credits.let_in('postgres', password => {quoted(PASSWORD)}); SELECT credits.let_in('app', 'clerk', {quoted(PASSWORD)})")
        self.add("node2", 2)
        self.add("node3", 3)
        router.sql("INSERT INTO credits.buckets SELECT * FROM credits.spread_buckets(ARRAY['node1', 'node2', 'node3'])")
        # Where they are at first.
        homes = router.sql(f"SELECT a, credits.node_of(a) FROM unnest(ARRAY[{', '.join(map(quoted, ACCOUNTS))}]::uuid[]) a")
        self.homes = dict(line.split("|") for line in homes.splitlines())

    def start(self, name):
        """A server that can be a node."""
        node = self.nodes[name] = Server(name, self.running)
        node.sql("CREATE EXTENSION credits_ledger")
        node.script(PRODUCT / "sql/roles.sql")
        node.script(FOLDER / "node.sql")
        node.sql(f"ALTER ROLE postgres PASSWORD {quoted(PASSWORD)}; CREATE ROLE clerk LOGIN IN ROLE credits_charger, credits_limiter PASSWORD {quoted(PASSWORD)}")
        return node

    def add(self, name, number, database=None):
        self.router.sql(f"INSERT INTO credits.nodes (node, host, port, dbname, node_number) VALUES ('{name}', '127.0.0.1', {self.nodes[name].port}, '{name}', {number})", database=database)

    def dump_router(self):
        return subprocess.run([BIN / "pg_dump", "-h", self.router.folder, "-p", str(self.router.port), "-U", "postgres", "router"], check=True, text=True, stdout=subprocess.PIPE).stdout

    def copy_router(self, database):
        """Another router, with the map of now."""
        dump = self.dump_router()
        self.router.sql(f"CREATE DATABASE {database}", database="postgres")
        self.router.sql(dump, database=database)

    def of(self, account):
        return self.nodes[self.homes.get(account) or self.router.sql(f"SELECT credits.node_of('{account}')")]

    def accounts_of(self, name):
        return [account for account in ACCOUNTS if self.of(account).name == name]

    def everywhere(self, query):
        """What all nodes answer, one after the other."""
        return "\n".join(filter(None, (node.sql(query) for node in self.nodes.values())))


def quoted(text):
    return "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def ordered(text):
    return sorted(text.splitlines())


def has_plproxy():
    if not (BIN / "pg_config").exists():
        sys.exit(f"{NAME}: {BIN} has no pg_config")
    shared = subprocess.run([BIN / "pg_config", "--sharedir"], text=True, check=True, stdout=subprocess.PIPE).stdout.strip()
    if (Path(shared) / "extension/plproxy.control").exists():
        return True
    print("skipped: the server has no PL/Proxy (Debian: postgresql-15-plproxy)")
    return False


def run(checks):
    """Each check, one after the other, on the same nodes."""
    if not has_plproxy():
        return
    with ExitStack() as running:
        all_nodes = Nodes(running)
        for function in checks:
            began = time.monotonic()
            function(all_nodes)
            print(f"{function.__name__.replace('_', ' ')}: ok ({time.monotonic() - began:.1f} s)", flush=True)
    print(f"test result: ok. {len(checks)} passed; 0 failed")
