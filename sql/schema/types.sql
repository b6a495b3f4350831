COMMENT ON SCHEMA credits IS 'Prepaid-credit ledgers, kept by the extension credits_ledger.';

CREATE TYPE credits.credit_transaction AS (
    id                 uuid,
    user_id            uuid,
    transaction_type   text,
    amount             numeric,
    source_id          text,
    description        text,
    created_at         timestamptz,
    seq                bigint,
    fusillade_batch_id uuid,
    api_key_id         uuid
);
COMMENT ON TYPE credits.credit_transaction IS
    'One ledger row as the functions return it. amount is positive; the sign follows from transaction_type.';

CREATE TYPE credits.transaction_with_category AS (
    id               uuid,
    user_id          uuid,
    transaction_type text,
    amount           numeric,
    source_id        text,
    description      text,
    created_at       timestamptz,
    seq              bigint,
    batch_id         uuid,
    request_origin   text,
    batch_sla        text,
    batch_count      int
);
COMMENT ON TYPE credits.transaction_with_category IS
    'An item of a grouped list: one ledger row, or one batch with its total, its number of rows (batch_count) and its '
    'highest seq. For a batch, id and batch_id are the batch''s id and description is ''Batch''.';

CREATE TYPE credits.transaction_with_balance AS (
    id                 uuid,
    user_id            uuid,
    transaction_type   text,
    amount             numeric,
    source_id          text,
    description        text,
    created_at         timestamptz,
    seq                bigint,
    fusillade_batch_id uuid,
    api_key_id         uuid,
    balance_after      numeric
);
COMMENT ON TYPE credits.transaction_with_balance IS
    'A credit_transaction and balance_after: the signed sum of its account''s transactions up to and including its seq.';

CREATE TYPE credits.credit_hold AS (
    source_id          text,
    user_id            uuid,
    amount             numeric,
    description        text,
    fusillade_batch_id uuid,
    api_key_id         uuid,
    category           text,
    metadata           jsonb,
    created_at         timestamptz,
    expires_at         timestamptz
);
COMMENT ON TYPE credits.credit_hold IS 'One row of holds as the functions return it.';

CREATE TYPE credits.recorded_transaction AS (
    item           int,
    source_id      text,
    outcome        text,
    transaction_id uuid,
    seq            bigint,
    detail         text
);
COMMENT ON TYPE credits.recorded_transaction IS
    'Result of an item of record_transactions. item: its place in the array, from 1. outcome: recorded; exists, if it was stored '
    'before with the same user, type and amount; conflict, if another transaction has its source_id or id; refused. '
    'transaction_id and seq are those of the stored row, for recorded and exists; detail says why, for conflict and refused.';

CREATE TYPE credits.feed_item AS (
    feed_position      text,
    id                 uuid,
    user_id            uuid,
    transaction_type   text,
    amount             numeric,
    source_id          text,
    description        text,
    created_at         timestamptz,
    seq                bigint,
    fusillade_batch_id uuid,
    api_key_id         uuid,
    category           text,
    metadata           jsonb,
    reverses           uuid
);
COMMENT ON TYPE credits.feed_item IS 'One ledger row of transactions_after. Pass its feed_position to read the rows behind it.';
