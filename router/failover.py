"""A node of router/stress fails for good, and its standby takes over."""

import shutil
import threading
import time

from cluster import Client, Standby, until

STATES = ["noted", "expected", "copying", "copied", "given", "active", "done"]


class Failover:
    """Of one node, or two. Their standbys are synchronous: they have whatever the nodes have answered. One that lags gets nothing any more from a moment on, before its node fails."""

    def __init__(self, nodes, names, databases, random, doubt=None):
        self.nodes, self.random, self.doubt = nodes, random, doubt
        self.is_cut, self.is_over = False, False
        self.routers = [Client(nodes.router, "postgres", database) for database in databases]
        self.standbys = {name: self.follow(nodes.nodes[name]) for name in names}
        self.began = self.routers[0].insist("SELECT clock_timestamp()")

    def follow(self, node):
        node.sql("ALTER SYSTEM SET wal_keep_size = '128MB'; ALTER SYSTEM SET wal_retrieve_retry_interval = '100ms'; SELECT pg_reload_conf()")
        standby = Standby(node, self.nodes.running, follows=True)
        standby.start()
        node.sql("ALTER SYSTEM SET synchronous_standby_names = '*'; SELECT pg_reload_conf()")
        until("the standby to be synchronous", lambda: node.sql("SELECT sync_state FROM pg_stat_replication") == "sync")
        return standby

    def is_due(self, is_last):
        """Whether something happens in the next move."""
        self.last_move = self.routers[0].insist("SELECT coalesce(max(move), 0) FROM credits.moves")
        self.is_last = is_last
        return is_last or not self.is_cut or self.random.random() < 0.5

    def happen(self, killing):
        """At moments that are drawn. Nobody else kills a server then."""
        if self.doubt and not self.is_cut:
            for name in self.standbys:
                self.wait()
                with killing:
                    self.cut(name)
            self.is_cut = True
            if not self.is_last and self.random.random() < 0.5:
                return
        self.wait()
        with killing:
            self.take_over()
        self.random.shuffle(self.routers)
        self.tell(self.routers[0])
        self.telling = threading.Thread(target=self.tell_others)
        self.telling.start()
        self.is_over = True

    def wait(self):
        """Until the move has come to a state, or any time."""
        state = self.random.choice([None, *STATES])
        for _ in range(500):
            if state is None or self.has_come_to(state):
                break
            time.sleep(0.005)
        time.sleep(self.random.random() * (0.1 if state else 2))

    def has_come_to(self, state):
        come = ", ".join(f"'{each}'" for each in ["undoing", "undone", *STATES[STATES.index(state):]])
        return self.routers[0].ask(f"SELECT count(*) FROM credits.moves WHERE move > {self.last_move} AND state IN ({come})")[0] == "1"

    def cut(self, name):
        node = self.nodes.nodes[name]
        self.doubt.begin(node.sql("SELECT b FROM generate_series(0, 1023) b WHERE credits.owns_bucket(b)").splitlines())
        node.sql("ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf()")
        self.standbys[name].sql("ALTER SYSTEM SET primary_conninfo = ''; SELECT pg_reload_conf()")
        until("the standby to be cut off", lambda: node.sql("SELECT count(*) FROM pg_stat_replication") == "0")

    def take_over(self):
        failing = {name: self.nodes.nodes[name] for name in self.standbys}
        for node in failing.values():
            if not self.is_cut:
                # What a client has seen of a commit that was not answered, as after a restart, the standby has, too.
                seen = node.sql("SELECT pg_current_wal_lsn()")
                until("the standby to catch up", lambda: node.sql(f"SELECT flush_lsn >= '{seen}' FROM pg_stat_replication") == "t")
            node.stop()
            shutil.rmtree(node.data)
        for name, standby in self.standbys.items():
            standby.promote()
            self.nodes.nodes[name] = standby

    def tell(self, router):
        ports = " ".join(f"WHEN '{name}' THEN {standby.port}" for name, standby in self.standbys.items())
        router.insist(f"UPDATE credits.nodes SET port = CASE node {ports} END WHERE node IN ({self.names()})")

    def names(self):
        return ", ".join(f"'{name}'" for name in self.standbys)

    def tell_others(self):
        """Meanwhile, they go on with what they know."""
        for router in self.routers[1:]:
            time.sleep(self.random.random() * 5)
            self.tell(router)

    def end(self):
        self.telling.join()
        for router in self.routers:
            if self.doubt:
                # What has come to them since.
                moves = router.insist(f"SELECT bucket FROM credits.moves WHERE to_node IN ({self.names()}) AND changed_at > '{self.began}'")
                self.doubt.buckets.update(moves.splitlines())
            router.close()
