"""What errors, and docs/scale-out.md, tell an operator to do, for router/stress."""

import json
import re
from collections import Counter

from cluster import Client

FOLLOW = """UPDATE credits.buckets b SET node = o.owners[1]
    FROM credits.bucket_owners() o WHERE o.bucket = b.bucket AND o.owners <> ARRAY[b.node] AND cardinality(o.owners) = 1"""


class Operator:
    def __init__(self, nodes, doubt, may_have_lost):
        """Whether nodes may have lost what they have answered: only then may they disagree."""
        self.nodes, self.doubt, self.may_have_lost, self.tidied, self.taken = nodes, doubt, may_have_lost, Counter(), 0

    def mend(self, mover):
        """A standby has taken over: what nobody serves, and then a move that is under way."""
        for query in [
            "SELECT bucket, node FROM credits.bucket_owners() WHERE owners = '{}'",
            "SELECT bucket, to_node FROM credits.moves WHERE state NOT IN ('done', 'undone')",
        ]:
            for line in mover.client.insist(query).splitlines():
                mover.finish(*line.split("|"))

    def follow(self, sqlstate, client):
        """What the error of a move says. Returns rows that the node alone had that the bucket was to move to."""
        hint = " ".join(line for line in client.error() if line.startswith("HINT:"))
        calls = re.findall(r"CALL credits\.move_bucket\(\d+, '\w+'\)(?= does)", hint)
        if calls:
            client.ask(FOLLOW)
            client.ask(calls[0])
        elif self.may_have_lost and (sqlstate == "23505" or "on the new node" in hint):
            return self.take_away(client)
        return []

    def take_away(self, client):
        """Nodes disagree: the rows of the new node."""
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
