"""A prepaid account, from its first purchase over holds and a refusal to zero, with psycopg 3, and a chart of what it spent by day.

PGHOST, PGUSER, PGDATABASE and the like say where. The chart goes to the file that is named, or to usage_by_day.svg. Any surprise ends the
program with a status other than 0.
"""

import json
import sys
import uuid
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import matplotlib
import psycopg
from matplotlib.figure import Figure
from psycopg.errors import UniqueViolation

INSUFFICIENT_CREDITS = "LC001"


def expect(what, seen, expected):
    if seen != expected:
        raise SystemExit(f"{what}: expected {expected}, saw {seen}")
    print(f"{what}: {seen}")


def news(listener, account, count):
    """What is announced of this account next; the channels carry that of all accounts. A crossing without a threshold is about zero."""
    seen = []
    for notification in listener.notifies(timeout=10):
        if notification.channel == "auth_config_changed":
            # It names no account: for those who cache many, and then read them again.
            continue
        said = json.loads(notification.payload)
        if said["user_id"] == str(account):
            is_cap = notification.channel == "credits_spend_cap"
            seen.append(f"cap {said['state']}" if is_cap else f"{said['direction']} at {said.get('threshold', '0')}")
        if len(seen) == count:
            break
    return seen


def hold(db, account, amount, source_id):
    """Whether the account's credits cover the amount, which is held then.

    The error comes from the call, or from COMMIT if others spend at the same time: in a transaction, the `try` belongs around it."""
    try:
        db.execute("""
            SELECT FROM credits.create_hold(user_id => %s, amount => %s, source_id => %s, expires_in => '10 minutes')""",
            [account, amount, source_id])
        return True
    except psycopg.Error as error:
        # psycopg has no class for it.
        if error.sqlstate != INSUFFICIENT_CREDITS:
            raise
        return False


def balance(db, account):
    # numeric arrives as a Decimal: exact.
    return db.execute("SELECT credits.get_user_balance(%s)", [account]).fetchone()[0]


def chart(db, account, first, last, path):
    """Draws what the account spent on each of these days, a colour for each category. The days are those of UTC."""
    spent = db.execute("""
        SELECT day, coalesce(category, 'other'), sum(total_amount)
        FROM credits.usage_by_day(user_id => %s, start_date => %s, end_date => %s)
        WHERE transaction_type = 'usage' GROUP BY 1, 2 ORDER BY 2, 1""", [account, first, last]).fetchall()
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    # A chart may round: only here does a Decimal become a float.
    below = [0.0] * len(days)
    for category in dict.fromkeys(category for _day, category, _amount in spent):
        amounts = {day: float(amount) for day, of, amount in spent if of == category}
        heights = [amounts.get(day, 0.0) for day in days]
        axes.bar(days, heights, bottom=below, label=category)
        below = [low + height for low, height in zip(below, heights)]
    axes.set_ylim(0, 1.1 * max(below))
    axes.set_ylabel("credits")
    axes.legend()
    figure.savefig(path)
    return spent


RECORD_USAGE = """
    INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, fusillade_batch_id)
    VALUES (%s, 'usage', %s, %s, %s)"""

# New ids, so that this can be run again and again.
account, batch = uuid.uuid4(), uuid.uuid4()

# autocommit: notifications arrive between transactions, so a listener must not sit in one.
with psycopg.connect("", autocommit=True) as db, psycopg.connect("", autocommit=True) as listener:
    listener.execute("LISTEN credits_balance_crossed; LISTEN credits_spend_cap; LISTEN auth_config_changed")

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

    # A limit: holds may take the account to zero and no further, as without this row. A threshold: below 5, somebody wants to know.
    db.execute("INSERT INTO credits.spending_limits (user_id, overdraft_limit, thresholds) VALUES (%s, 0, ARRAY[5])", [account])

    # A spend cap: from now on, up to 5 credits a month. Nobody is refused by it, as it is not enforced: it is announced.
    db.execute("INSERT INTO credits.spend_caps (user_id, period, amount) VALUES (%s, 'monthly', 5)", [account])

    # A request that may cost 6 credits: they are held before it is served. Nobody else can spend them meanwhile.
    expect("held", hold(db, account, Decimal(6), f"request-held-{account}"), True)
    expect("held", hold(db, account, Decimal(6), f"request-refused-{account}"), False)

    # When the request is done, what it has cost is captured, and the rest of the hold is free again. This crosses the threshold
    # and reaches the cap.
    db.execute("SELECT FROM credits.capture_hold(source_id => %s, amount => %s)", [f"request-held-{account}", Decimal("5.5")])
    left = db.execute("SELECT credits.get_available_balance(%s)", [account]).fetchone()[0]
    expect("available", left, Decimal("4.249631"))
    cap = db.execute("SELECT spent, remaining, is_reached FROM credits.spend_cap_states WHERE user_id = %s", [account]).fetchone()
    expect("cap", cap, (Decimal("5.5"), Decimal(0), True))

    # Spending the rest takes the balance to zero, which the commit announces, too.
    db.execute(RECORD_USAGE, [account, left, f"request-last-{account}", None])
    expect("news", news(listener, account, 4), ["up at 0", "down at 5", "cap reached", "down at 0"])
    expect("balance", balance(db, account), Decimal(0))

    # The bill: what another account spent last week, on which model, and what a statement of that week says.
    spender, monday = uuid.uuid4(), date(2026, 1, 5)
    with db.cursor() as cursor:
        cursor.executemany("""
            INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, category, created_at)
            VALUES (%s, %s, %s, %s, %s, %s)""", [
            (spender, kind, Decimal(amount), f"week-{n}-{spender}", category,
             datetime(2026, 1, monday.day + day, 23, 59, 59, tzinfo=timezone.utc))
            for n, (day, kind, amount, category) in enumerate([
                (0, "purchase", "20", None), (0, "usage", "1.5", "large"), (0, "usage", "0.25", "small"),
                (2, "usage", "3.125", "large"), (6, "usage", "0.5", "small"), (7, "usage", "9", "large")])
        ])
    path = sys.argv[1] if len(sys.argv) > 1 else "usage_by_day.svg"
    spent = chart(db, spender, monday, monday + timedelta(days=6), path)
    expect("spent", [f"{day:%a} {category} {amount}" for day, category, amount in spent],
           ["Mon large 1.5", "Wed large 3.125", "Mon small 0.25", "Sun small 0.5"])
    statement = db.execute("SELECT line, amount FROM credits.account_statement(%s, %s, %s)",
                           [spender, datetime(2026, 1, 5, tzinfo=timezone.utc), datetime(2026, 1, 12, tzinfo=timezone.utc)])
    expect("statement", [f"{line} {amount}" for line, amount in statement if amount],
           ["purchase 20", "usage -5.375", "closing 14.625"])
    print(f"chart: {path}, by matplotlib {matplotlib.__version__}")
