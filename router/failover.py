"""A node of router/stress fails, and its standby takes over."""

import json
import re
import shutil
import threading
import time
from collections import Counter

from cluster import Client, Standby, until

STATES = ["noted", "expected", "copying", "copied", "given", "active", "done"]
FOLLOW = """UPDATE credits.buckets b SET node = o.owners[1]
    FROM credits.bucket_owners() o WHERE o.bucket = b.bucket AND o.owners <> ARRAY[b.node] AND cardinality(o.owners) = 1"""


class Failover:
    """Of one node. Its standby is synchronous: it has whatever the node has answered. One that lags gets nothing any more from a moment on, before the node fails."""

    def __init__(self, nodes, name, databases, random, doubt=None):
        self.nodes, self.name, self.random, self.doubt = nodes, name, random, doubt
        self.is_cut, self.is_over = False, False
        self.routers = [Client(nodes.router, "postgres", database) for database in databases]
        node = nodes.nodes[name]
        node.sql("ALTER SYSTEM SET wal_keep_size = '128MB'; ALTER SYSTEM SET wal_retrieve_retry_interval = '100ms'; SELECT pg_reload_conf()")
        self.standby = Standby(node, nodes.running, follows=True)
        self.standby.start()
        node.sql("ALTER SYSTEM SET synchronous_standby_names = '*'; SELECT pg_reload_conf()")
        until("the standby to be synchronous", lambda: node.sql("SELECT sync_state FROM pg_stat_replication") == "sync")
        self.began = self.routers[0].insist("SELECT clock_timestamp()")

    def is_due(self, is_last):
        """Whether something happens in the next move."""
        self.last_move = self.routers[0].insist("SELECT coalesce(max(move), 0) FROM credits.moves")
        self.is_last = is_last
        return is_last or not self.is_cut or self.random.random() < 0.5

    def happen(self, killing):
        """At moments that are drawn. Nobody else kills a server then."""
        self.wait()
        if self.doubt and not self.is_cut:
            with killing:
                self.cut()
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

    def cut(self):
        node = self.nodes.nodes[self.name]
        self.doubt.begin(node.sql("SELECT b FROM generate_series(0, 1023) b WHERE credits.owns_bucket(b)").splitlines())
        node.sql("ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf()")
        self.standby.sql("ALTER SYSTEM SET primary_conninfo = ''; SELECT pg_reload_conf()")
        until("the standby to be cut off", lambda: node.sql("SELECT count(*) FROM pg_stat_replication") == "0")
        self.is_cut = True

    def take_over(self):
        node = self.nodes.nodes[self.name]
        if not self.is_cut:
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
            if self.doubt:
                # What has come to the node since.
                moves = router.insist(f"SELECT bucket FROM credits.moves WHERE to_node = '{self.name}' AND changed_at > '{self.began}'")
                self.doubt.buckets.update(moves.splitlines())
            router.close()


class Operator:
    """Does what docs/scale-out.md says."""

    def __init__(self, nodes, doubt):
        self.nodes, self.doubt, self.tidied, self.taken = nodes, doubt, Counter(), 0

    def mend(self, mover):
        """A standby has taken over: what nobody serves."""
        unserved = mover.client.insist("SELECT bucket, node FROM credits.bucket_owners() WHERE owners = '{}'")
        for bucket, node in [line.split("|") for line in unserved.splitlines()]:
            mover.finish(bucket, node)

    def follow(self, sqlstate, client):
        """What the error of a move says. Returns rows that the node alone had that the bucket was to move to."""
        hint = client.hint()
        calls = re.findall(r"CALL credits\.move_bucket\(\d+, '\w+'\)(?= does)", hint)
        if calls:
            client.ask(FOLLOW)
            client.ask(calls[0])
        elif sqlstate == "23505" or "on the new node" in hint:
            return self.take_away(client)
        return []

    def take_away(self, client):
        """Nodes disagree."""
        bucket, *names = client.insist("SELECT bucket, from_node, to_node FROM credits.moves ORDER BY move DESC LIMIT 1").split("|")
        rows = f"SELECT jsonb_agg(to_jsonb(t)) FROM credits.bucket_transactions({bucket}, NULL, NULL) t"
        old, new = [json.loads(self.nodes.nodes[name].sql(rows) or "[]") for name in names]
        self.doubt.begin([bucket])
        self.taken += 1
        self.nodes.nodes[names[1]].sql(f"SELECT credits.return_bucket({bucket}), credits.purge_bucket({bucket})")
        kept = {row["id"] for row in old}
        return [row for row in new if row["id"] not in kept]

    def record(self, rows):
        if rows:
            items = json.dumps([{key: row[key] for key in ["user_id", "transaction_type", "amount", "source_id"]} for row in rows])
            client = Client(self.nodes.router, "postgres")
            client.insist(f"SELECT count(*) FROM credits.record_transactions($${items}$$)")
            client.close()

    def tidy_up(self, mover):
        """A standby may have lost that a bucket is not about to leave any more, or not to come: it moves all the same, and what it has left behind is purged."""
        for name, node in self.nodes.nodes.items():
            for line in node.sql("SELECT bucket, state FROM credits.bucket_states WHERE state IN ('moving', 'arriving')").splitlines():
                bucket, state = line.split("|")
                away = [other for other in self.nodes.nodes if other != name]
                mover.finish(bucket, name if state == "arriving" else away[0])
                home = mover.client.insist(f"SELECT node FROM credits.buckets WHERE bucket = {bucket}")
                for other in self.nodes.nodes:
                    if other != home:
                        mover.client.insist(f"CALL credits.purge_bucket({bucket}, '{other}')")
                self.tidied[state] += 1
