"""A prepaid account, from its first purchase to zero, with asyncpg.

PGHOST, PGPORT, PGUSER and PGDATABASE say where. Any surprise ends the program with a status other than 0.
"""

import asyncio
import json
import uuid
from decimal import Decimal

import asyncpg


def expect(what, seen, expected):
    if seen != expected:
        raise SystemExit(f"{what}: expected {expected}, saw {seen}")
    print(f"{what}: {seen}")


async def main():
    # New ids, so that this can be run again and again.
    account, batch = uuid.uuid4(), uuid.uuid4()
    crossings = asyncio.Queue()

    def on_crossing(_connection, _pid, _channel, payload):
        # The channel carries the crossings of all accounts.
        crossing = json.loads(payload)
        if crossing["user_id"] == str(account):
            crossings.put_nowait(crossing["direction"])

    # A listener has a connection of its own: what a pool lends stops listening when it is given back.
    listener = await asyncpg.connect()
    await listener.add_listener("credits_balance_crossed", on_crossing)

    async with asyncpg.create_pool(min_size=1, max_size=4) as pool:
        # A purchase. The source_id makes it safe to try again: the same one is recorded once.
        purchase = """
            SELECT amount FROM credits.create_transaction(
                user_id => $1, transaction_type => 'purchase', amount => $2, source_id => $3)"""
        for _attempt in range(2):
            await pool.execute(purchase, account, Decimal(10), f"invoice-{account}")

        # With another amount it is refused: this is no retry.
        try:
            await pool.execute(purchase, account, Decimal(11), f"invoice-{account}")
        except asyncpg.UniqueViolationError as error:
            expect("refused with", error.sqlstate, "23505")

        # Many rows at once come in by COPY, as safe and settled as an INSERT. The first three requests are a batch.
        charges = [("0.000123", batch), ("0.000123", batch), ("0.000123", batch), ("0.25", None)]
        async with pool.acquire() as db:
            await db.copy_records_to_table(
                "credits_transactions", schema_name="credits",
                columns=["user_id", "transaction_type", "amount", "source_id", "fusillade_batch_id"],
                records=[(account, "usage", Decimal(amount), f"request-{n}-{account}", of_batch)
                         for n, (amount, of_batch) in enumerate(charges)])

        # numeric arrives as a Decimal: exact.
        left = await pool.fetchval("SELECT credits.get_user_balance($1)", account)
        expect("balance", left, Decimal("9.749631"))

        # The history, newest first, with the batch as one item. The next page: before_seq => the last seq of this one.
        page = await pool.fetch(
            'SELECT * FROM credits.list_transactions_with_batches(user_id => $1, "limit" => $2)', account, 10)
        expect("page", [f"{item['transaction_type']} {item['amount']} ({item['batch_count']})" for item in page],
               ["usage 0.25 (1)", "usage 0.000369 (3)", "purchase 10 (1)"])
        # Ids are UUIDs, and dates know their time zone.
        expect("types", [isinstance(page[0]["id"], uuid.UUID), page[0]["created_at"].tzinfo is not None], [True, True])

        # Spending the rest takes the balance to zero, which the commit announces.
        await pool.execute(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)"
            " VALUES ($1, 'usage', $2, $3)", account, left, f"request-last-{account}")
        async with asyncio.timeout(10):
            expect("crossings", [await crossings.get(), await crossings.get()], ["up", "down"])
        expect("balance", await pool.fetchval("SELECT credits.get_user_balance($1)", account), Decimal(0))
    await listener.close()


asyncio.run(main())
