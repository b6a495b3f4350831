-- CREATE EXTENSION puts the schema credits into the search_path. Another role may have made that schema first, with operators in it
-- that fit an expression below better than the server's own.
SET LOCAL search_path = pg_catalog, pg_temp;

-- Stamps a ledger row with the top-level id of the transaction that inserts it, in the cluster it is inserted in.
-- It is declared IMMUTABLE because Postgres demands that of a generated column, and takes seq so that it is evaluated
-- for each row and never folded at plan time. It is not immutable in truth and must not be used anywhere else.
-- It runs for every row just before the row is stored, whatever inserts it. So it also moves the sequence on when a row brings a seq
-- of its own.
-- Like every function in C it has no SET search_path, which would cost each insert more than the function itself: the library
-- pins the search_path where it runs SQL, and this one runs none.
CREATE FUNCTION credits.current_xact_id(seq bigint) RETURNS xid8
    LANGUAGE c IMMUTABLE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'current_xact_id';
COMMENT ON FUNCTION credits.current_xact_id(bigint) IS
    'Id of the current top-level transaction, for the generated column credits_transactions.xact_id only. Moves the sequence on '
    'to seq, if the row brings one and the caller may insert it.';

-- Rows that are written together have ids that lie together, in the last pages of the primary key: these stay in memory, and are logged
-- whole once after a checkpoint, not once for each row. The server has a function for it since 18.
CREATE FUNCTION credits.uuid_v7() RETURNS uuid
    LANGUAGE c VOLATILE PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'uuid_v7';
COMMENT ON FUNCTION credits.uuid_v7() IS
    'A new uuid of version 7 (RFC 9562): ordered by the time at which it was made, ascending within a session whatever the clock does. '
    'The default of credits_transactions.id. Anybody may call it.';

-- What the constraints of this table and of those that users write ask. The server reads and plans the expression of each in every
-- statement, and a call is the shortest one: written out, the three of this table took a third of the instructions of an INSERT.
CREATE FUNCTION credits.is_amount(amount numeric) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'is_amount';
COMMENT ON FUNCTION credits.is_amount(numeric) IS
    'Whether this is the amount of a transaction: above 0, at most 13 integer and 15 fractional digits. For constraints.';
CREATE FUNCTION credits.is_transaction_type(transaction_type text) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'is_transaction_type';
COMMENT ON FUNCTION credits.is_transaction_type(text) IS
    'Whether this is purchase, admin_grant, admin_removal or usage. For a constraint of credits_transactions.';
CREATE FUNCTION credits.may_have_batch(transaction_type text, fusillade_batch_id uuid) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'may_have_batch';
COMMENT ON FUNCTION credits.may_have_batch(text, uuid) IS
    'Whether a transaction of this type may belong to a batch: usage may. For a constraint of credits_transactions.';

CREATE TABLE credits.credits_transactions (
    id                 uuid        NOT NULL DEFAULT credits.uuid_v7(),
    user_id            uuid        NOT NULL,
    transaction_type   text        NOT NULL,
    amount             numeric     NOT NULL,
    source_id          text        NOT NULL,
    description        text,
    fusillade_batch_id uuid,
    api_key_id         uuid,
    created_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    seq                bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    xact_id            xid8        NOT NULL GENERATED ALWAYS AS (credits.current_xact_id(seq)) STORED,
    category           text,
    metadata           jsonb,
    reverses           uuid,

    CONSTRAINT credits_transactions_pkey PRIMARY KEY (id),
    CONSTRAINT credits_transactions_source_id_key UNIQUE (source_id),
    CONSTRAINT transaction_type_is_known
        CHECK (credits.is_transaction_type(transaction_type)),
    CONSTRAINT amount_is_positive_and_exact
        CHECK (credits.is_amount(amount)),
    CONSTRAINT batch_is_usage
        CHECK (credits.may_have_batch(transaction_type, fusillade_batch_id))
) USING heap WITH (
    -- Absolute thresholds: a fraction of a large ledger is far too many rows to wait for.
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 100000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 100000
);
ALTER TABLE credits.credits_transactions ALTER COLUMN user_id SET STATISTICS 1000;

-- The delta of a checkpoint is one range of this index. Rows that one transaction writes for one user have the same key,
-- which the index keeps once: with seq behind it, a flush of 100 rows would take five times the space.
CREATE INDEX credits_transactions_delta_idx ON credits.credits_transactions (user_id, xact_id);
-- A row is in one of the next two. list_user_transactions and sum_recent_transactions walk both backwards and merge them;
-- list_transactions_with_batches finds its single rows in the first without passing the rows of batches.
CREATE INDEX credits_transactions_single_idx ON credits.credits_transactions (user_id, seq)
    WHERE fusillade_batch_id IS NULL;
CREATE INDEX credits_transactions_batched_idx ON credits.credits_transactions (user_id, seq)
    WHERE fusillade_batch_id IS NOT NULL;
-- Lists and counts of a period, and sum_transactions_after_date. Rows that are written together have the same second, which
-- the index keeps once: by the microsecond it would take five times the space.
CREATE INDEX credits_transactions_user_created_idx ON credits.credits_transactions (user_id, (created_at::timestamptz(0)));
-- list_all_transactions walks it backwards. The predicate is true of every row, and only a query that repeats it can use this index:
-- otherwise the planner would at times walk it to list the rows of one user.
CREATE UNIQUE INDEX credits_transactions_seq_idx ON credits.credits_transactions (seq)
    WHERE seq >= '-9223372036854775808';
-- Lists of all users in a period. An insert does not touch it until its block range is summarized.
CREATE INDEX credits_transactions_created_idx ON credits.credits_transactions USING brin (created_at);
-- The server has no BRIN operator class for xid8. This one consists of the server's own operators and functions.
CREATE OPERATOR CLASS credits.xid8_minmax_ops FOR TYPE xid8 USING brin AS
    OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >,
    FUNCTION 1 brin_minmax_opcinfo(internal),
    FUNCTION 2 brin_minmax_add_value(internal, internal, internal, internal),
    FUNCTION 3 brin_minmax_consistent(internal, internal, internal),
    FUNCTION 4 brin_minmax_union(internal, internal, internal);
COMMENT ON OPERATOR CLASS credits.xid8_minmax_ops USING brin IS 'Block range index of transaction ids.';
COMMENT ON OPERATOR FAMILY credits.xid8_minmax_ops USING brin IS 'Block range index of transaction ids.';
-- For transactions_after. As above, an insert does not touch it: a block range is summarized when the next one begins, or by a vacuum.
CREATE INDEX credits_transactions_stamp_idx ON credits.credits_transactions USING brin (xact_id credits.xid8_minmax_ops)
    WITH (pages_per_range = 64, autosummarize = on);
-- get_monthly_auto_topup_spend. starts_with compares bytes, so no collation can change what it finds.
CREATE INDEX credits_transactions_auto_topup_idx ON credits.credits_transactions (user_id, created_at)
    WHERE starts_with(source_id, 'auto_topup_');
-- The reversals of a transaction: what a commit adds up, and what became of a charge. A row that reverses nothing is not in it. A hash
-- index would do without the predicate, and would be built with room for every row of the table.
CREATE INDEX credits_transactions_reverses_idx ON credits.credits_transactions (reverses) WHERE reverses IS NOT NULL;

COMMENT ON TABLE credits.credits_transactions IS
    'The ledger: append-only, and the only source of truth. Balances, checkpoints and batch totals are derived from it.';
COMMENT ON COLUMN credits.credits_transactions.id IS 'Identity of the transaction; a uuid of version 7 unless given.';
COMMENT ON COLUMN credits.credits_transactions.user_id IS 'Account that the credits belong to.';
COMMENT ON COLUMN credits.credits_transactions.transaction_type IS
    'purchase and admin_grant add to the balance, admin_removal and usage take from it.';
COMMENT ON COLUMN credits.credits_transactions.amount IS
    'Credits, always positive: at most 13 integer and 15 fractional digits. The sign follows from transaction_type.';
COMMENT ON COLUMN credits.credits_transactions.source_id IS 'Idempotency key: unique over the whole ledger.';
COMMENT ON COLUMN credits.credits_transactions.description IS 'Free text for people; searched by the lists.';
COMMENT ON COLUMN credits.credits_transactions.fusillade_batch_id IS 'Batch that a usage row belongs to, if any.';
COMMENT ON COLUMN credits.credits_transactions.api_key_id IS 'API key that caused the transaction, if any.';
COMMENT ON COLUMN credits.credits_transactions.created_at IS 'When the row was written, unless the client says otherwise.';
COMMENT ON COLUMN credits.credits_transactions.seq IS
    'Order of insertion, for listing. Not the order of commit: nothing is derived by comparing it.';
COMMENT ON COLUMN credits.credits_transactions.xact_id IS
    'Transaction that inserted the row, in this cluster. Not dumped and not replicated: stamped afresh where the row lands.';
COMMENT ON COLUMN credits.credits_transactions.category IS
    'What the transaction was for: a model, a product, a tier. At most 200 characters; NULL unless given.';
COMMENT ON COLUMN credits.credits_transactions.metadata IS
    'The application''s own: a JSON object; NULL unless given.';
COMMENT ON COLUMN credits.credits_transactions.reverses IS
    'id of the transaction that this one takes back; NULL unless given.';
COMMENT ON CONSTRAINT transaction_type_is_known ON credits.credits_transactions IS
    'The four types of transaction.';
COMMENT ON CONSTRAINT amount_is_positive_and_exact ON credits.credits_transactions IS
    'An amount is exact or refused, never rounded: above 0, at most 13 integer and 15 fractional digits.';
COMMENT ON CONSTRAINT batch_is_usage ON credits.credits_transactions IS
    'Only usage rows belong to a batch.';
COMMENT ON INDEX credits.credits_transactions_delta_idx IS
    'Finds the rows of a user that a checkpoint does not cover yet.';
COMMENT ON INDEX credits.credits_transactions_single_idx IS
    'Lists the rows of a user that belong to no batch, newest first.';
COMMENT ON INDEX credits.credits_transactions_batched_idx IS
    'Lists the rows of a user that belong to batches, newest first.';
COMMENT ON INDEX credits.credits_transactions_user_created_idx IS
    'Finds the rows of a user by date, to the second.';
COMMENT ON INDEX credits.credits_transactions_seq_idx IS
    'Lists the rows of all users, newest first.';
COMMENT ON INDEX credits.credits_transactions_created_idx IS
    'Finds the rows of all users by date.';
COMMENT ON INDEX credits.credits_transactions_stamp_idx IS
    'Finds the rows of all users by the transaction that inserted them.';
COMMENT ON INDEX credits.credits_transactions_auto_topup_idx IS
    'Finds the automatic top-ups of a user by date.';
COMMENT ON INDEX credits.credits_transactions_reverses_idx IS
    'Finds the reversals of a transaction.';

CREATE FUNCTION credits.refuse_change() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'refuse_change';
COMMENT ON FUNCTION credits.refuse_change() IS
    'Trigger: refuses UPDATE, DELETE and TRUNCATE of the ledger with SQLSTATE 55000.';

CREATE TRIGGER append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON credits.credits_transactions
    FOR EACH STATEMENT EXECUTE FUNCTION credits.refuse_change();
ALTER TABLE credits.credits_transactions ENABLE ALWAYS TRIGGER append_only;
COMMENT ON TRIGGER append_only ON credits.credits_transactions IS
    'Refuses UPDATE, DELETE and TRUNCATE.';

-- Logical replication fires row triggers only, and so does a statement on a parent table, should an owner have attached the ledger to
-- one.
CREATE TRIGGER append_only_applied
    BEFORE UPDATE OR DELETE ON credits.credits_transactions
    FOR EACH ROW EXECUTE FUNCTION credits.refuse_change();
ALTER TABLE credits.credits_transactions ENABLE ALWAYS TRIGGER append_only_applied;
COMMENT ON TRIGGER append_only_applied ON credits.credits_transactions IS
    'Refuses UPDATE and DELETE that logical replication applies, or that come through another table.';

CREATE FUNCTION credits.note_transaction() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'note_row';
COMMENT ON FUNCTION credits.note_transaction() IS
    'Trigger: notes the user of an inserted row and its amount; the user is settled when the transaction commits.';

-- ALWAYS: rows that logical replication applies are settled on the server they land in.
CREATE TRIGGER note_transaction
    AFTER INSERT ON credits.credits_transactions
    FOR EACH ROW EXECUTE FUNCTION credits.note_transaction();
ALTER TABLE credits.credits_transactions ENABLE ALWAYS TRIGGER note_transaction;
COMMENT ON TRIGGER note_transaction ON credits.credits_transactions IS
    'Notes the accounts whose balances the transaction changes; they are settled when it commits.';

SELECT pg_catalog.pg_extension_config_dump('credits.credits_transactions', '');
SELECT pg_catalog.pg_extension_config_dump(
    pg_catalog.pg_get_serial_sequence('credits.credits_transactions', 'seq')::regclass, '');

-- Back to the search_path of CREATE EXTENSION.
SET LOCAL search_path = credits, pg_temp;
