CREATE TABLE credits.user_balance_checkpoints (
    user_id               uuid        NOT NULL,
    checkpoint_seq        bigint      NOT NULL,
    balance               numeric     NOT NULL,
    updated_at            timestamptz NOT NULL,
    transaction_count     bigint      NOT NULL,
    watermark             xid8        NOT NULL,
    stragglers            xid8[]      NOT NULL,
    is_positive           boolean     NOT NULL,
    crossed_at            timestamptz,
    overdraft_limit       numeric,
    thresholds            numeric[],
    thresholds_below      smallint,
    thresholds_crossed_at timestamptz[],
    has_days              boolean,
    cap_ids               uuid[],
    caps_reached_until    timestamptz[],

    CONSTRAINT user_balance_checkpoints_pkey PRIMARY KEY (user_id)
) USING heap WITH (
    -- Room on the page keeps the updates heap-only.
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 5000
);
COMMENT ON TABLE credits.user_balance_checkpoints IS
    'Derived: per user, the balance of the ledger rows that have been folded so far, and which side of zero was last '
    'announced. It covers exactly the rows with xact_id < watermark AND xact_id <> ALL (stragglers). Clients read the view balances.';
COMMENT ON COLUMN credits.user_balance_checkpoints.user_id IS 'Account.';
COMMENT ON COLUMN credits.user_balance_checkpoints.checkpoint_seq IS 'Highest seq among the covered rows; 0 if there are none.';
COMMENT ON COLUMN credits.user_balance_checkpoints.balance IS 'Signed sum of the covered rows.';
COMMENT ON COLUMN credits.user_balance_checkpoints.updated_at IS 'When the row was last written.';
COMMENT ON COLUMN credits.user_balance_checkpoints.transaction_count IS 'Number of covered rows.';
COMMENT ON COLUMN credits.user_balance_checkpoints.watermark IS
    'Rows of transactions from this one on are not covered.';
COMMENT ON COLUMN credits.user_balance_checkpoints.stragglers IS
    'Transactions below the watermark that were still open when the checkpoint was taken: their rows are not covered.';
COMMENT ON COLUMN credits.user_balance_checkpoints.is_positive IS 'Side of zero last announced: balance > 0.';
COMMENT ON COLUMN credits.user_balance_checkpoints.crossed_at IS 'When is_positive last changed; NULL before the first crossing.';
COMMENT ON COLUMN credits.user_balance_checkpoints.overdraft_limit IS
    'Copied from spending_limits: NULL where it is 0, Infinity where there is none.';
COMMENT ON COLUMN credits.user_balance_checkpoints.thresholds IS
    'Copied from spending_limits, ascending; NULL where there are none.';
COMMENT ON COLUMN credits.user_balance_checkpoints.thresholds_below IS
    'How many of the thresholds lie below the balance announced last; NULL where there are none.';
COMMENT ON COLUMN credits.user_balance_checkpoints.thresholds_crossed_at IS
    'When each of the thresholds was last crossed; NULL before its first crossing, and where there are none.';
COMMENT ON COLUMN credits.user_balance_checkpoints.has_days IS
    'Whether daily_totals has what the checkpoint covers; NULL in one that an earlier version has made, until fill_daily_totals.';
COMMENT ON COLUMN credits.user_balance_checkpoints.cap_ids IS
    'The account''s caps, copied from spend_caps, ascending; NULL where there are none.';
COMMENT ON COLUMN credits.user_balance_checkpoints.caps_reached_until IS
    'Until when each of the caps was last announced to be reached, infinity for one without a period; NULL where it was not.';

CREATE TABLE credits.batch_aggregates (
    fusillade_batch_id uuid        NOT NULL,
    user_id            uuid        NOT NULL,
    total_amount       numeric     NOT NULL,
    transaction_count  bigint      NOT NULL,
    max_seq            bigint      NOT NULL,
    created_at         timestamptz NOT NULL,
    updated_at         timestamptz NOT NULL,

    CONSTRAINT batch_aggregates_pkey PRIMARY KEY (user_id, fusillade_batch_id)
) USING heap WITH (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 20000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 20000
);
-- No statistics: a caller of the view folded_batches could have the planner try an operator of its own on the values in them. The
-- index in the order of a page is the right one whatever they say.
ALTER TABLE credits.batch_aggregates
    ALTER COLUMN fusillade_batch_id SET STATISTICS 0, ALTER COLUMN user_id SET STATISTICS 0,
    ALTER COLUMN total_amount SET STATISTICS 0, ALTER COLUMN transaction_count SET STATISTICS 0,
    ALTER COLUMN max_seq SET STATISTICS 0, ALTER COLUMN created_at SET STATISTICS 0,
    ALTER COLUMN updated_at SET STATISTICS 0;
COMMENT ON TABLE credits.batch_aggregates IS
    'Derived: per user and batch, the totals of the rows that the user''s checkpoint covers. Clients read the view batches.';
COMMENT ON COLUMN credits.batch_aggregates.fusillade_batch_id IS 'Batch.';
COMMENT ON COLUMN credits.batch_aggregates.user_id IS 'Account.';
COMMENT ON COLUMN credits.batch_aggregates.total_amount IS 'Sum of the amounts, positive.';
COMMENT ON COLUMN credits.batch_aggregates.transaction_count IS 'Number of rows.';
COMMENT ON COLUMN credits.batch_aggregates.max_seq IS 'Highest seq among the rows.';
COMMENT ON COLUMN credits.batch_aggregates.created_at IS 'Smallest created_at among the rows.';
COMMENT ON COLUMN credits.batch_aggregates.updated_at IS 'When the row was last written.';

-- The folded batches among the items of list_transactions_with_batches; created_at is there to be filtered by.
CREATE INDEX batch_aggregates_user_seq_idx ON credits.batch_aggregates (user_id, max_seq, created_at);
COMMENT ON INDEX credits.batch_aggregates_user_seq_idx IS
    'Lists the folded batches of a user, newest first.';

CREATE TABLE credits.daily_totals (
    user_id           uuid    NOT NULL,
    day               date    NOT NULL,
    category          text,
    api_key_id        uuid,
    transaction_type  text    NOT NULL,
    total_amount      numeric NOT NULL,
    transaction_count bigint  NOT NULL
) USING heap WITH (
    -- Room on the page keeps the updates heap-only.
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 20000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 20000
);
COMMENT ON TABLE credits.daily_totals IS
    'Derived: per user, UTC day of created_at, type, category and API key, the totals of the rows that the user''s checkpoint covers, if it '
    'has has_days. Rows without a category, or without a key, belong together. Clients call usage_by_day.';
COMMENT ON COLUMN credits.daily_totals.user_id IS 'Account.';
COMMENT ON COLUMN credits.daily_totals.day IS
    'Day of created_at in UTC; infinity and -infinity where that is infinite, as in rows of earlier versions.';
COMMENT ON COLUMN credits.daily_totals.category IS 'Category, NULL for rows without one.';
COMMENT ON COLUMN credits.daily_totals.api_key_id IS 'API key, NULL for rows without one.';
COMMENT ON COLUMN credits.daily_totals.transaction_type IS 'Type of the transactions.';
COMMENT ON COLUMN credits.daily_totals.total_amount IS 'Sum of the amounts, positive.';
COMMENT ON COLUMN credits.daily_totals.transaction_count IS 'Number of rows.';

-- By this index the engine finds the total that a row belongs to, and keeps totals apart: a unique one would have NULLs differ before
-- Postgres 15. The texts are ordered by their bytes: an update of the system's library can change the order of a collation.
CREATE INDEX daily_totals_user_day_idx
    ON credits.daily_totals (user_id, day, transaction_type COLLATE "C", category COLLATE "C", api_key_id);
COMMENT ON INDEX credits.daily_totals_user_day_idx IS
    'Finds a total, and reads the days of a user in order.';
-- No column may be NULL in a key. Without an identity, a subscriber would refuse the updates that a publication of all tables brings.
ALTER TABLE credits.daily_totals REPLICA IDENTITY FULL;

-- Each change of checkpoints by hand leaves a row here, in the same transaction. What sessions publish bears a name that is derived from
-- the rows of this table (src/pg/state.rs): after the commit, nothing that was published before is used, on standbys neither. The engine
-- inserts the row and removes older ones. A change of this table by hand has the same effect, since it leaves another set of rows.
CREATE TABLE credits.checkpoint_changes (
    xact_id    xid8        NOT NULL,
    changed_at timestamptz NOT NULL
) USING heap WITH (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 1000
);
COMMENT ON TABLE credits.checkpoint_changes IS
    'Derived: the last transactions that changed checkpoints by hand. What sessions had published of accounts before such a '
    'change is not used any more. Not for clients.';
COMMENT ON COLUMN credits.checkpoint_changes.xact_id IS 'Transaction that changed checkpoints.';
COMMENT ON COLUMN credits.checkpoint_changes.changed_at IS 'When it changed them.';

-- These sums include rows that row-level security may hide from a caller, so only the owner reads the tables themselves,
-- whatever is granted. No policy lets others in, because pg_dump would dump a policy of the extension as one of its user.
ALTER TABLE credits.user_balance_checkpoints ENABLE ROW LEVEL SECURITY;
ALTER TABLE credits.batch_aggregates ENABLE ROW LEVEL SECURITY;
ALTER TABLE credits.daily_totals ENABLE ROW LEVEL SECURITY;

-- Watermarks are transaction ids of their own cluster. A publication of more tables than the ledger brings derived rows of the
-- publisher: they are skipped, and the subscriber derives its own from the ledger. The engine's own writes fire no triggers.
CREATE FUNCTION credits.leave_out() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'leave_out';
COMMENT ON FUNCTION credits.leave_out() IS 'Trigger: skips rows that logical replication brings for a derived table.';

CREATE TRIGGER leave_out_replicated
    BEFORE INSERT OR UPDATE OR DELETE ON credits.user_balance_checkpoints
    FOR EACH ROW EXECUTE FUNCTION credits.leave_out();
ALTER TABLE credits.user_balance_checkpoints ENABLE REPLICA TRIGGER leave_out_replicated;
COMMENT ON TRIGGER leave_out_replicated ON credits.user_balance_checkpoints IS
    'Skips the checkpoints of other databases, which replication brings.';

CREATE TRIGGER leave_out_replicated
    BEFORE INSERT OR UPDATE OR DELETE ON credits.batch_aggregates
    FOR EACH ROW EXECUTE FUNCTION credits.leave_out();
ALTER TABLE credits.batch_aggregates ENABLE REPLICA TRIGGER leave_out_replicated;
COMMENT ON TRIGGER leave_out_replicated ON credits.batch_aggregates IS
    'Skips the batch totals of other databases, which replication brings.';

CREATE TRIGGER leave_out_replicated
    BEFORE INSERT OR UPDATE OR DELETE ON credits.daily_totals
    FOR EACH ROW EXECUTE FUNCTION credits.leave_out();
ALTER TABLE credits.daily_totals ENABLE REPLICA TRIGGER leave_out_replicated;
COMMENT ON TRIGGER leave_out_replicated ON credits.daily_totals IS
    'Skips the daily totals of other databases, which replication brings.';

CREATE TRIGGER leave_out_replicated
    BEFORE INSERT OR UPDATE OR DELETE ON credits.checkpoint_changes
    FOR EACH ROW EXECUTE FUNCTION credits.leave_out();
ALTER TABLE credits.checkpoint_changes ENABLE REPLICA TRIGGER leave_out_replicated;
COMMENT ON TRIGGER leave_out_replicated ON credits.checkpoint_changes IS
    'Skips the changes in other databases, which replication brings.';

-- What sessions publish of accounts is derived from checkpoints: a change by hand invalidates it. The engine's own writes fire no
-- triggers.
CREATE FUNCTION credits.announce_change() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'announce_change';
COMMENT ON FUNCTION credits.announce_change() IS
    'Trigger: records in checkpoint_changes that the transaction changes checkpoints, and invalidates what every session keeps of'
    ' accounts, once it has committed.';

CREATE TRIGGER announce_change
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON credits.user_balance_checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION credits.announce_change();
ALTER TABLE credits.user_balance_checkpoints ENABLE ALWAYS TRIGGER announce_change;
COMMENT ON TRIGGER announce_change ON credits.user_balance_checkpoints IS
    'Has sessions read a checkpoint again that was changed or deleted by hand.';

CREATE TRIGGER announce_change
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON credits.checkpoint_changes
    FOR EACH STATEMENT EXECUTE FUNCTION credits.announce_change();
ALTER TABLE credits.checkpoint_changes ENABLE ALWAYS TRIGGER announce_change;
COMMENT ON TRIGGER announce_change ON credits.checkpoint_changes IS 'A change of this table by hand is recorded in it, too.';

-- A position of transactions_after is valid in one ledger, and contains its name. pg_dump leaves this row out, so a restored ledger gets a
-- name of its own, and so does a subscriber; pg_upgrade and a copy of the whole database keep it.
CREATE TABLE credits.ledger_identity (
    is_only   boolean NOT NULL DEFAULT true,
    ledger_id uuid    NOT NULL DEFAULT gen_random_uuid(),

    CONSTRAINT ledger_identity_pkey PRIMARY KEY (is_only),
    CONSTRAINT there_is_one CHECK (is_only)
) USING heap WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_analyze_scale_factor = 0);
COMMENT ON TABLE credits.ledger_identity IS 'Derived: the name of this ledger. Positions of transactions_after contain it.';
COMMENT ON COLUMN credits.ledger_identity.is_only IS 'Always true: it keeps the table at one row.';
COMMENT ON COLUMN credits.ledger_identity.ledger_id IS
    'Random: kept by pg_upgrade and by copies of the database, another one in a restored ledger and at a subscriber.';
COMMENT ON CONSTRAINT there_is_one ON credits.ledger_identity IS
    'A ledger has one name.';
INSERT INTO credits.ledger_identity DEFAULT VALUES;
ALTER TABLE credits.ledger_identity ENABLE ROW LEVEL SECURITY;

CREATE TRIGGER leave_out_replicated
    BEFORE INSERT OR UPDATE OR DELETE ON credits.ledger_identity
    FOR EACH ROW EXECUTE FUNCTION credits.leave_out();
ALTER TABLE credits.ledger_identity ENABLE REPLICA TRIGGER leave_out_replicated;
COMMENT ON TRIGGER leave_out_replicated ON credits.ledger_identity IS
    'Skips the names of other ledgers, which replication brings.';

-- Only the checkpoint stores which side of zero was announced last. It cannot be computed from the ledger's rows: a crossing by COMMIT
-- PREPARED may not have been announced yet. So when a checkpoint is deleted by hand, this trigger notes the side, and the commit makes
-- the checkpoint again on that side. TRUNCATE fires no row trigger: there, a statement trigger notes that all are to be made again.
CREATE FUNCTION credits.keep_announced() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'keep_announced';
COMMENT ON FUNCTION credits.keep_announced() IS
    'Trigger: notes the announced side of zero of a deleted checkpoint; the checkpoint is made again on that side when the '
    'transaction commits.';

CREATE TRIGGER keep_announced
    AFTER DELETE OR UPDATE OF user_id ON credits.user_balance_checkpoints
    FOR EACH ROW EXECUTE FUNCTION credits.keep_announced();
ALTER TABLE credits.user_balance_checkpoints ENABLE ALWAYS TRIGGER keep_announced;
COMMENT ON TRIGGER keep_announced ON credits.user_balance_checkpoints IS 'Has a checkpoint that was deleted by hand made again.';

CREATE TRIGGER keep_all_announced
    BEFORE TRUNCATE ON credits.user_balance_checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION credits.keep_announced();
ALTER TABLE credits.user_balance_checkpoints ENABLE ALWAYS TRIGGER keep_all_announced;
COMMENT ON TRIGGER keep_all_announced ON credits.user_balance_checkpoints IS 'Has all checkpoints made again after TRUNCATE.';
