"""A node of router/stress fails, and its standby takes over."""

import shutil
import threading
import time

from cluster import Client, Standby, until

STATES = ["noted", "expected", "copying", "copied", "given", "active", "done"]


class Failover:
    """Of one node. Its standby is synchronous: it has whatever the node has answered."""

    def __init__(self, nodes, name, databases, random):
        self.nodes, self.name, self.random = nodes, name, random
        self.routers = [Client(nodes.router, "postgres", database) for database in databases]
        self.last_move = self.routers[0].insist("SELECT coalesce(max(move), 0) FROM credits.moves")
        node = nodes.nodes[name]
        node.sql("ALTER SYSTEM SET wal_keep_size = '128MB'; ALTER SYSTEM SET wal_retrieve_retry_interval = '100ms'; SELECT pg_reload_conf()")
        self.standby = Standby(node, nodes.running, follows=True)
        self.standby.start()
        node.sql("ALTER SYSTEM SET synchronous_standby_names = '*'; SELECT pg_reload_conf()")
        until("the standby to be synchronous", lambda: node.sql("SELECT sync_state FROM pg_stat_replication") == "sync")

    def happen(self, killing):
        """At a moment that is drawn: when the move has come to a state, or any time. Nobody else kills a server then."""
        state = self.random.choice([None, *STATES])
        for _ in range(500):
            if state is None or self.has_come_to(state):
                break
            time.sleep(0.005)
        time.sleep(self.random.random() * (0.1 if state else 2))
        with killing:
            self.take_over()
        self.random.shuffle(self.routers)
        self.tell(self.routers[0])
        self.telling = threading.Thread(target=self.tell_others)
        self.telling.start()

    def has_come_to(self, state):
        come = ", ".join(f"'{each}'" for each in ["undoing", "undone", *STATES[STATES.index(state):]])
        return self.routers[0].ask(f"SELECT count(*) FROM credits.moves WHERE move > {self.last_move} AND state IN ({come})")[0] == "1"

    def take_over(self):
        node = self.nodes.nodes[self.name]
        # What a client has seen of a commit that was not answered, as after a restart, the standby has, too.
        seen = node.sql("SELECT pg_current_wal_lsn()")
        until("the standby to catch up", lambda: node.sql(f"SELECT flush_lsn >= '{seen}' FROM pg_stat_replication") == "t")
        node.stop()
        shutil.rmtree(node.data)
        self.standby.promote()
        self.nodes.nodes[self.name] = self.standby

    def tell(self, router):
        router.insist(f"UPDATE credits.nodes SET port = {self.standby.port} WHERE node = '{self.name}'")

    def tell_others(self):
        """Meanwhile, they go on with what they know."""
        for router in self.routers[1:]:
            time.sleep(self.random.random() * 5)
            self.tell(router)

    def end(self):
        self.telling.join()
        for router in self.routers:
            router.close()
