"""Hears of crossings on all nodes of a ledger, whichever go away and come, with asyncpg.

Whatever concerns accounts goes through the router. Notifications do not: each node sends those of its own accounts. `Listener` is made to
be copied; what follows it has a node restarted, adds one, and moves an account there.

ROUTER_HOST and ROUTER_DATABASE are the router's, PGUSER is the user of router and nodes. SERVERS is a program: `SERVERS restart NODE`
restarts a node, `SERVERS add NODE` starts one more and tells the router of it, `SERVERS move ACCOUNT NODE` moves the account's bucket there. Any surprise ends the program with a status other than 0.
"""

import asyncio
import json
import os
import sys
import uuid
from decimal import Decimal

import asyncpg


class Listener:
    """Listens on each node that the router names, connects again to one that was gone, and takes up those that are added.

    `on_crossing(node, crossing)` is called for each that is heard, `on_connected(node)` whenever a node is listened to, anew or again. What it
    announced before that was heard by nobody: read the balances that matter then. What two nodes say of an account that has moved from one to the
    other may be heard in either order: let the balance decide, not the direction."""

    def __init__(self, connect_to_router, on_crossing, on_connected, look_again=1.0):
        self.connect_to_router = connect_to_router
        self.on_crossing = on_crossing
        self.on_connected = on_connected
        # Seconds between two looks at the list of nodes, and between two attempts to reach one.
        self.look_again = look_again
        self.tasks = {}

    async def run(self):
        """Until it is cancelled."""
        router = None
        try:
            while True:
                try:
                    if router is None or router.is_closed():
                        router = await self.connect_to_router()
                    self.follow(await router.fetch("SELECT node, host, port, dbname FROM credits.nodes"))
                except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                    # Without the router, those that are known are listened to.
                    print(f"router: {error!r}", file=sys.stderr)
                await asyncio.sleep(self.look_again)
        finally:
            for task in self.tasks.values():
                task.cancel()
            await asyncio.gather(*self.tasks.values(), return_exceptions=True)
            if router is not None:
                await router.close()

    def follow(self, nodes):
        """One task for each place that is listed: a node that is at another place now is a new one."""
        places = {tuple(node) for node in nodes}
        for place in self.tasks.keys() - places:
            self.tasks.pop(place).cancel()
        for place in places - self.tasks.keys():
            self.tasks[place] = asyncio.create_task(self.listen(*place))

    async def listen(self, node, host, port, dbname):
        while True:
            try:
                await self.listen_until_it_ends(node, host, port, dbname)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                print(f"{node}: {error!r}", file=sys.stderr)
            await asyncio.sleep(self.look_again)

    async def listen_until_it_ends(self, node, host, port, dbname):
        # A node that is gone without a word, with its network, is noticed by the keepalives.
        server = await asyncpg.connect(host=host, port=port, database=dbname, timeout=10)
        try:
            ended = asyncio.Event()
            server.add_termination_listener(lambda _server: ended.set())
            await server.add_listener(
                "credits_balance_crossed",
                lambda _server, _pid, _channel, payload: self.on_crossing(node, json.loads(payload)),
            )
            self.on_connected(node)
            await ended.wait()
        finally:
            # It must not wait for a server that does not answer.
            server.terminate()


def expect(what, seen, expected):
    if seen != expected:
        raise SystemExit(f"{what}: expected {expected}, saw {seen}")
    print(f"{what}: {seen}")


async def servers(*words):
    program = await asyncio.create_subprocess_exec(os.environ["SERVERS"], *words)
    expect(" ".join(words), await program.wait(), 0)


async def main():
    def connect_to_router():
        return asyncpg.connect(host=os.environ["ROUTER_HOST"], database=os.environ["ROUTER_DATABASE"])

    heard, connected = asyncio.Queue(), asyncio.Queue()
    listener = Listener(
        connect_to_router,
        lambda node, crossing: heard.put_nowait((node, crossing["user_id"], crossing["direction"])),
        connected.put_nowait,
        look_again=0.1,
    )
    listening = asyncio.create_task(listener.run())
    router = await connect_to_router()
    async with asyncio.timeout(110):
        expect("listening on", sorted([await connected.get(), await connected.get()]), ["node1", "node2"])

        # Accounts, until each node has one. Their first purchases are announced by the nodes that have them.
        accounts = {}
        buy = """
            SELECT FROM credits.create_transaction(
                user_id => $1, transaction_type => 'purchase', amount => $2, source_id => $3)"""
        while len(accounts) < 2:
            account = uuid.uuid4()
            await router.execute(buy, account, Decimal(10), f"invoice-{account}")
            node, user_id, direction = await heard.get()
            expect(f"heard of {node}", [user_id, direction], [str(account), "up"])
            accounts[node] = account

        # A node goes away and comes again. Its listener does, too, and has missed nothing that was announced since.
        await servers("restart", "node1")
        expect("listening again on", await connected.get(), "node1")
        spend = "SELECT FROM credits.charge(user_id => $1, amount => $2, source_id => $3)"
        # The router's connection to that node has ended with it; it finds out with its next call.
        try:
            await router.fetchval("SELECT credits.get_user_balance($1)", accounts["node1"])
        except asyncpg.PostgresError as error:
            print(f"after the restart: {error.sqlstate}")
        for node, account in accounts.items():
            await router.execute(spend, account, Decimal(10), f"all-{account}")
            expect(f"heard of {node}", await heard.get(), (node, str(account), "down"))

        # A node that is added is listened to before it has an account.
        await servers("add", "node3")
        expect("listening on", await connected.get(), "node3")

        # An account that moves there is announced from there. Its last purchase is refused by nobody: the router waits for the move.
        account = accounts["node1"]
        moving = asyncio.create_task(servers("move", str(account), "node3"))
        await router.execute(buy, account, Decimal(1), f"while-it-moves-{account}")
        _node, user_id, direction = await heard.get()
        expect("heard of it, whichever has it", [user_id, direction], [str(account), "up"])
        await moving
        await router.execute(spend, account, Decimal(1), f"after-the-move-{account}")
        expect("heard of node3", await heard.get(), ("node3", str(account), "down"))
    await router.close()
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


asyncio.run(main())
