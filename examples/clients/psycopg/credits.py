"""A prepaid account, from its first purchase to zero, with psycopg 3.

PGHOST, PGUSER, PGDATABASE and the like say where. Any surprise ends the program with a status other than 0.
"""

import json
import uuid
from decimal import Decimal

import psycopg
from psycopg.errors import UniqueViolation


def expect(what, seen, expected):
    if seen != expected:
        raise SystemExit(f"{what}: expected {expected}, saw {seen}")
    print(f"{what}: {seen}")


def crossings(listener, account, count):
    """The next directions that this account crosses zero in; the channel carries those of all accounts."""
    directions = []
    for notification in listener.notifies(timeout=10):
        crossing = json.loads(notification.payload)
        if crossing["user_id"] == str(account):
            directions.append(crossing["direction"])
        if len(directions) == count:
            break
    return directions


def balance(db, account):
    # numeric arrives as a Decimal: exact.
    return db.execute("SELECT credits.get_user_balance(%s)", [account]).fetchone()[0]


RECORD_USAGE = """
    INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, fusillade_batch_id)
    VALUES (%s, 'usage', %s, %s, %s)"""

# New ids, so that this can be run again and again.
account, batch = uuid.uuid4(), uuid.uuid4()

# autocommit: notifications arrive between transactions, so a listener must not sit in one.
with psycopg.connect("", autocommit=True) as db, psycopg.connect("", autocommit=True) as listener:
    listener.execute("LISTEN credits_balance_crossed")

    # A purchase. The source_id makes it safe to try again: the same one is recorded once.
    purchase = """
        SELECT amount FROM credits.create_transaction(
            user_id => %s, transaction_type => 'purchase', amount => %s, source_id => %s)"""
    for _attempt in range(2):
        db.execute(purchase, [account, Decimal(10), f"invoice-{account}"])

    # With another amount it is refused: this is no retry.
    try:
        db.execute(purchase, [account, Decimal(11), f"invoice-{account}"])
    except UniqueViolation as error:
        expect("refused with", error.sqlstate, "23505")

    # Usage is a plain INSERT, here one transaction with four rows. The first three requests are a batch.
    charges = [("0.000123", batch), ("0.000123", batch), ("0.000123", batch), ("0.25", None)]
    with db.transaction(), db.cursor() as cursor:
        cursor.executemany(RECORD_USAGE, [
            (account, Decimal(amount), f"request-{n}-{account}", of_batch)
            for n, (amount, of_batch) in enumerate(charges)
        ])
    left = balance(db, account)
    expect("balance", left, Decimal("9.749631"))

    # The history, newest first, with the batch as one item. The next page: before_seq => the last seq of this one.
    page = db.execute("""
        SELECT transaction_type, amount, batch_count
        FROM credits.list_transactions_with_batches(user_id => %s, "limit" => %s)""", [account, 10]).fetchall()
    expect("page", [f"{kind} {amount} ({rows})" for kind, amount, rows in page],
           ["usage 0.25 (1)", "usage 0.000369 (3)", "purchase 10 (1)"])

    # Ids are UUIDs, and dates know their time zone.
    last = db.execute("SELECT id, created_at FROM credits.list_user_transactions(%s, \"limit\" => 1)", [account]).fetchone()
    expect("types", [type(last[0]), last[1].tzinfo is not None], [uuid.UUID, True])

    # Spending the rest takes the balance to zero, which the commit announces.
    db.execute(RECORD_USAGE, [account, left, f"request-last-{account}", None])
    expect("crossings", crossings(listener, account, 2), ["up", "down"])
    expect("balance", balance(db, account), Decimal(0))
