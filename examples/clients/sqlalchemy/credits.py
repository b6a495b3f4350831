"""A prepaid account, from its first purchase to zero, with SQLAlchemy, and Alembic, which leaves the ledger alone.

PGHOST, PGPORT, PGUSER and PGDATABASE say where. Any surprise ends the program with a status other than 0.
"""

import json
import pathlib
import tempfile
import uuid
from decimal import Decimal

import alembic.command
import alembic.config
import psycopg
from sqlalchemy import Numeric, create_engine, func, inspect, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from models import CreditsTransaction, Customer


def expect(what, seen, expected):
    if seen != expected:
        raise SystemExit(f"{what}: expected {expected}, saw {seen}")
    print(f"{what}: {seen}")


def balance(session, account):
    return session.scalar(select(func.credits.get_user_balance(account, type_=Numeric)))


# libpq's own variables say where.
engine = create_engine("postgresql+psycopg://")

# Alembic: a migration that it writes itself creates the application's table and touches nothing of the ledger.
with tempfile.TemporaryDirectory() as versions, engine.begin() as connection:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(pathlib.Path(__file__).parent / "migrations"))
    config.set_main_option("version_locations", versions)
    config.set_main_option("path_separator", "newline")
    config.attributes["connection"] = connection
    script = alembic.command.revision(config, "customers", autogenerate=True)
    migration = pathlib.Path(script.path).read_text()
    expect("creates customers", "create_table('customers'" in migration, True)
    expect("touches the ledger", "credits" in migration, False)
    alembic.command.upgrade(config, "head")
    # Raises if anything were left to migrate.
    alembic.command.check(config)
expect("tables", inspect(engine).get_table_names(), ["alembic_version", "customers"])

# New ids, so that this can be run again and again.
account, batch = uuid.uuid4(), uuid.uuid4()

# A session's connection goes back to the pool: whoever listens has one of its own.
listener = psycopg.connect("", autocommit=True)
listener.execute("LISTEN credits_balance_crossed")

with Session(engine) as session:
    session.add(Customer(user_id=account, name="Ada"))

    # A purchase. The source_id makes it safe to try again: the same one is recorded once.
    for _attempt in range(2):
        session.execute(
            insert(CreditsTransaction)
            .values(user_id=account, transaction_type="purchase", amount=Decimal(10), source_id=f"invoice-{account}")
            .on_conflict_do_nothing(index_elements=["source_id"])
        )
        session.commit()

    # The function also compares what is there: with another amount it is refused, since this is no retry.
    try:
        with session.begin_nested():
            session.execute(select(func.credits.create_transaction(account, "purchase", Decimal(11), f"invoice-{account}")))
    except IntegrityError as error:
        expect("refused with", error.orig.sqlstate, "23505")

    # Usage is an object, or many. The first three requests are a batch.
    charges = [("0.000123", batch), ("0.000123", batch), ("0.000123", batch), ("0.25", None)]
    requests = [
        CreditsTransaction(
            user_id=account, transaction_type="usage", amount=Decimal(amount), source_id=f"request-{n}-{account}",
            fusillade_batch_id=of_batch,
        )
        for n, (amount, of_batch) in enumerate(charges)
    ]
    session.add_all(requests)
    session.commit()
    left = balance(session, account)
    expect("balance", left, Decimal("9.749631"))

    # A page of rows, newest first. The next page: seq < the last one of this page.
    page = session.scalars(
        select(CreditsTransaction).where(CreditsTransaction.user_id == account).order_by(CreditsTransaction.seq.desc()).limit(3)
    ).all()
    expect("page", [f"{row.transaction_type} {row.amount}" for row in page], ["usage 0.25", "usage 0.000123", "usage 0.000123"])
    # Ids are UUIDs, and dates know their time zone.
    expect("types", [type(page[0].id), page[0].created_at.tzinfo is not None], [uuid.UUID, True])

    # Spending the rest takes the balance to zero, which the commit announces.
    session.add(CreditsTransaction(user_id=account, transaction_type="usage", amount=left, source_id=f"request-last-{account}"))
    session.commit()
    directions = []
    for notification in listener.notifies(timeout=10):
        crossing = json.loads(notification.payload)
        if crossing["user_id"] == str(account):
            directions.append(crossing["direction"])
        if len(directions) == 2:
            break
    expect("crossings", directions, ["up", "down"])
    expect("balance", balance(session, account), Decimal(0))
