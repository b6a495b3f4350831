"""A prepaid account, from its first purchase to zero, through PgBouncer in transaction mode, with psycopg 3.

POOL_HOST and POOL_PORT are the pooler's. PGHOST, PGPORT, PGUSER and PGDATABASE are the server's: whoever listens goes there.
Any surprise ends the program with a status other than 0.
"""

import json
import os
import uuid
from decimal import Decimal

import psycopg
from psycopg.errors import UniqueViolation


def expect(what, seen, expected):
    if seen != expected:
        raise SystemExit(f"{what}: expected {expected}, saw {seen}")
    print(f"{what}: {seen}")


def pooled():
    # A statement that is prepared belongs to a server's session, and the next transaction may get another one. PgBouncer follows
    # statements from its version 1.21 on; with an older one, nothing may be prepared.
    return psycopg.connect(
        host=os.environ["POOL_HOST"], port=os.environ["POOL_PORT"], autocommit=True, prepare_threshold=None
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


# New ids, so that this can be run again and again.
account, batch = uuid.uuid4(), uuid.uuid4()

with pooled() as db, pooled() as deaf, psycopg.connect("", autocommit=True) as listener:
    # The pooler lets a LISTEN pass, but it holds for a session of the server's: notifications come while the client is between
    # transactions, where it has none.
    deaf.execute("LISTEN credits_balance_crossed")
    listener.execute("LISTEN credits_balance_crossed")

    # A purchase. The source_id makes it safe to try again: the same one is recorded once.
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

    # Settings are a transaction's: SET LOCAL. A plain SET would stay in a session that others get.
    with db.transaction(), db.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = '2s'")
        cursor.executemany(
            """INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, fusillade_batch_id)
               VALUES (%s, 'usage', %s, %s, %s)""",
            [(account, Decimal("0.000123"), f"request-{n}-{account}", batch) for n in range(3)]
            + [(account, Decimal("0.25"), f"request-3-{account}", None)],
        )
    left = db.execute("SELECT credits.get_user_balance(%s)", [account]).fetchone()[0]
    expect("balance", left, Decimal("9.749631"))

    # The history, newest first, with the batch as one item. The next page: before_seq => the last seq of this one.
    page = db.execute("""
        SELECT transaction_type, amount, batch_count
        FROM credits.list_transactions_with_batches(user_id => %s, "limit" => %s)""", [account, 10]).fetchall()
    expect("page", [f"{kind} {amount} ({rows})" for kind, amount, rows in page],
           ["usage 0.25 (1)", "usage 0.000369 (3)", "purchase 10 (1)"])

    # Spending the rest takes the balance to zero, which the commit announces to those who listen at the server.
    db.execute("SELECT FROM credits.create_transaction(%s, 'usage', %s, %s)", [account, left, f"request-last-{account}"])
    expect("crossings", crossings(listener, account, 2, timeout=10), ["up", "down"])
    expect("through the pooler", crossings(deaf, account, 2, timeout=1), [])
