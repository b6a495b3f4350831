"""A prepaid account, from its first purchase to zero, through Pgpool-II and a standby, with psycopg 3.

POOL_HOST and POOL_PORT are the pooler's, and STANDBY_PORT the standby's. PGHOST, PGPORT, PGUSER and PGDATABASE are the server's: whoever
listens goes there.
Any surprise ends the program with a status other than 0.
"""

import json
import os
import time
import uuid
from decimal import Decimal

import psycopg
from psycopg.errors import UniqueViolation


def expect(what, seen, expected):
    if seen != expected:
        raise SystemExit(f"{what}: expected {expected}, saw {seen}")
    print(f"{what}: {seen}")


def pooled():
    # A client has a session of its own in the pooler, so statements may be prepared: here all, psycopg would wait for five uses.
    return psycopg.connect(
        host=os.environ["POOL_HOST"], port=os.environ["POOL_PORT"], autocommit=True, prepare_threshold=0
    )


def crossings(listener, account, count, timeout):
    directions = []
    for notification in listener.notifies(timeout=timeout):
        crossing = json.loads(notification.payload)
        if crossing["user_id"] == str(account):
            directions.append(crossing["direction"])
        if len(directions) == count:
            break
    return directions


def balance(db, account):
    # pgpool.conf names this function: it is read from the primary.
    return db.execute("SELECT credits.get_user_balance(%s)", [account]).fetchone()[0]


def page(db, account):
    # Like any read, it goes to the standby, and may lag. The next page: before_seq => the last seq of this one.
    rows = db.execute("""
        SELECT transaction_type, amount, batch_count
        FROM credits.list_transactions_with_batches(user_id => %s, "limit" => %s)""", [account, 10]).fetchall()
    return [f"{kind} {amount} ({rows})" for kind, amount, rows in rows]


# New ids, so that this can be run again and again.
account, batch = uuid.uuid4(), uuid.uuid4()
standby = psycopg.connect(host=os.environ["POOL_HOST"], port=os.environ["STANDBY_PORT"], user="postgres", autocommit=True)

with pooled() as db, psycopg.connect("", autocommit=True) as listener:
    listener.execute("LISTEN credits_balance_crossed")

    # For this program alone: a standby that lags for certain.
    standby.execute("SELECT pg_wal_replay_pause()")
    expect("balance before", balance(db, account), Decimal(0))

    # A purchase. The source_id makes it safe to try again: the same one is recorded once. The function is volatile, and so Pgpool-II
    # sends it to the primary, SELECT or not.
    purchase = """
        SELECT FROM credits.create_transaction(
            user_id => %s, transaction_type => 'purchase', amount => %s, source_id => %s)"""
    for _attempt in range(2):
        db.execute(purchase, [account, Decimal(10), f"invoice-{account}"])

    # With another amount it is refused: this is no retry.
    try:
        db.execute(purchase, [account, Decimal(11), f"invoice-{account}"])
    except UniqueViolation as error:
        expect("refused with", error.sqlstate, "23505")

    with db.transaction(), db.cursor() as cursor:
        cursor.executemany(
            """INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, fusillade_batch_id)
               VALUES (%s, 'usage', %s, %s, %s)""",
            [(account, Decimal("0.000123"), f"request-{n}-{account}", batch) for n in range(3)]
            + [(account, Decimal("0.25"), f"request-3-{account}", None)],
        )
    left = balance(db, account)
    expect("balance", left, Decimal("9.749631"))
    expect("page of a standby that lags", page(db, account), [])

    standby.execute("SELECT pg_wal_replay_resume()")
    deadline = time.monotonic() + 10
    while len(items := page(db, account)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    expect("page", items, ["usage 0.25 (1)", "usage 0.000369 (3)", "purchase 10 (1)"])

    # Spending the rest takes the balance to zero, which the commit announces to those who listen at the server.
    db.execute("SELECT FROM credits.create_transaction(%s, 'usage', %s, %s)", [account, left, f"request-last-{account}"])
    expect("crossings", crossings(listener, account, 2, timeout=10), ["up", "down"])
    expect("balance", balance(db, account), Decimal(0))
