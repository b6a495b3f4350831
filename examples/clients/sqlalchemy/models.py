"""The application's tables, and the ledger as SQLAlchemy needs to know it."""

import uuid
from datetime import datetime
from decimal import Decimal

from sqlalchemy import BigInteger, DateTime, FetchedValue, Identity, MetaData, Numeric, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """What the application owns: Alembic compares it with the database."""


class Customer(Base):
    __tablename__ = "customers"

    user_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text)


class LedgerBase(DeclarativeBase):
    """What the extension owns. A metadata of its own keeps it out of create_all() and of Alembic's sight."""

    metadata = MetaData(schema="credits")


class CreditsTransaction(LedgerBase):
    __tablename__ = "credits_transactions"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    user_id: Mapped[uuid.UUID]
    transaction_type: Mapped[str] = mapped_column(Text)
    # numeric without digits: SQLAlchemy gives and takes Decimal.
    amount: Mapped[Decimal] = mapped_column(Numeric)
    source_id: Mapped[str] = mapped_column(Text, unique=True)
    description: Mapped[str | None] = mapped_column(Text)
    fusillade_batch_id: Mapped[uuid.UUID | None]
    api_key_id: Mapped[uuid.UUID | None]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())
    # GENERATED ALWAYS: never named in an INSERT, and read back from it.
    seq: Mapped[int] = mapped_column(BigInteger, Identity(always=True))
    category: Mapped[str | None] = mapped_column(Text)
    # "metadata" is a name that SQLAlchemy needs itself.
    extra: Mapped[dict | None] = mapped_column("metadata", JSONB(none_as_null=True))
    # Left out: xact_id, which is the ledger's own; reverses, which only its functions write.
