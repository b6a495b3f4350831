"""A prepaid account, from its first purchase to zero, with Django: a model that Django reads and writes, and does not manage.

PGHOST, PGPORT, PGUSER and PGDATABASE say where. Any surprise ends the program with a status other than 0.
"""

import json
import os
import uuid
from decimal import Decimal

import django
import psycopg
from django.conf import settings

settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": os.environ["PGHOST"],
            "PORT": os.environ["PGPORT"],
            "USER": os.environ["PGUSER"],
            "NAME": os.environ["PGDATABASE"],
        }
    },
    USE_TZ=True,
)
django.setup()

from django.db import IntegrityError, connection, models, transaction  # noqa: E402


class Identity(models.BigIntegerField):
    """A column GENERATED ALWAYS AS IDENTITY: never named in an INSERT, and read back from it."""

    generated = True
    db_returning = True


class CreditsTransaction(models.Model):
    class Meta:
        app_label = "credits"
        managed = False
        # Quotation marks make Django leave the name as it is, schema and all.
        db_table = '"credits"."credits_transactions"'
        ordering = ["-seq"]

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    user_id = models.UUIDField()
    transaction_type = models.TextField()
    amount = models.DecimalField(max_digits=28, decimal_places=15)
    source_id = models.TextField(unique=True)
    description = models.TextField(null=True)
    fusillade_batch_id = models.UUIDField(null=True)
    api_key_id = models.UUIDField(null=True)
    created_at = models.DateTimeField(db_default=models.functions.Now())
    seq = Identity()
    category = models.TextField(null=True)
    metadata = models.JSONField(null=True)
    # Left out: xact_id, which is the ledger's own and has no type in Django; reverses, which only its functions write.


def expect(what, seen, expected):
    if seen != expected:
        raise SystemExit(f"{what}: expected {expected}, saw {seen}")
    print(f"{what}: {seen}")


def balance(account):
    with connection.cursor() as cursor:
        cursor.execute("SELECT credits.get_user_balance(%s)", [account])
        return cursor.fetchone()[0]


# New ids, so that this can be run again and again.
account, batch = uuid.uuid4(), uuid.uuid4()

# Django's connections are for requests: whoever listens has one of its own.
listener = psycopg.connect("", autocommit=True)
listener.execute("LISTEN credits_balance_crossed")

# A purchase. The source_id makes it safe to try again: the same one is recorded once.
for _attempt in range(2):
    CreditsTransaction.objects.get_or_create(
        source_id=f"invoice-{account}",
        defaults={"user_id": account, "transaction_type": "purchase", "amount": Decimal(10)},
    )

# The function also compares what is there: with another amount it is refused, since this is no retry.
try:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "SELECT FROM credits.create_transaction(%s, 'purchase', %s, %s)", [account, Decimal(11), f"invoice-{account}"]
        )
except IntegrityError as error:
    expect("refused with", error.__cause__.sqlstate, "23505")

# Many rows at once. The first three requests are a batch. A retry adds nothing.
charges = [("0.000123", batch), ("0.000123", batch), ("0.000123", batch), ("0.25", None)]
for _attempt in range(2):
    CreditsTransaction.objects.bulk_create(
        [
            CreditsTransaction(
                user_id=account, transaction_type="usage", amount=Decimal(amount), source_id=f"request-{n}-{account}",
                fusillade_batch_id=of_batch,
            )
            for n, (amount, of_batch) in enumerate(charges)
        ],
        ignore_conflicts=True,
    )
left = balance(account)
expect("balance", left, Decimal("9.749631"))

# A page of rows, newest first. The next page: seq__lt the last seq of this one.
page = CreditsTransaction.objects.filter(user_id=account)[:3]
expect("page", [f"{row.transaction_type} {row.amount.normalize()}" for row in page],
       ["usage 0.25", "usage 0.000123", "usage 0.000123"])

# Spending the rest takes the balance to zero, which the commit announces. The row knows its seq and date, which the server gave it.
last = CreditsTransaction.objects.create(
    user_id=account, transaction_type="usage", amount=left, source_id=f"request-last-{account}"
)
expect("numbered", last.seq > page[0].seq, True)
last.refresh_from_db()
expect("types", [type(last.id), last.created_at.tzinfo is not None], [uuid.UUID, True])

directions = []
for notification in listener.notifies(timeout=10):
    crossing = json.loads(notification.payload)
    if crossing["user_id"] == str(account):
        directions.append(crossing["direction"])
    if len(directions) == 2:
        break
expect("crossings", directions, ["up", "down"])
expect("balance", balance(account), Decimal(0))
