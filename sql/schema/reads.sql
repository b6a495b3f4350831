-- The reading functions. Each binds its arguments into a query of its own, run with the rights, the row-level security and
-- the snapshot of the caller; none writes, so all work in a read-only transaction and on a standby.

-- Single rows
CREATE FUNCTION credits.get_transaction_by_id(transaction_id uuid) RETURNS SETOF credits.credit_transaction
    LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 1
    AS 'MODULE_PATHNAME', 'get_transaction_by_id';
COMMENT ON FUNCTION credits.get_transaction_by_id(uuid) IS
    'The transaction with this id, or no row. 22004 for NULL. Cost: one lookup by primary key.';
CREATE FUNCTION credits.transaction_exists_by_source_id(source_id text) RETURNS boolean
    LANGUAGE c STABLE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'transaction_exists_by_source_id';
COMMENT ON FUNCTION credits.transaction_exists_by_source_id(text) IS
    'Whether a transaction has this source_id. 22004 for NULL. Cost: one lookup by unique index.';

-- Lists, newest first
CREATE FUNCTION credits.list_user_transactions(
    user_id uuid, skip bigint DEFAULT 0, "limit" bigint DEFAULT 50,
    search text DEFAULT NULL, transaction_types text[] DEFAULT NULL,
    start_date timestamptz DEFAULT NULL, end_date timestamptz DEFAULT NULL,
    before_seq bigint DEFAULT NULL
) RETURNS SETOF credits.credit_transaction
    LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 50
    AS 'MODULE_PATHNAME', 'list_user_transactions';
COMMENT ON FUNCTION credits.list_user_transactions(uuid, bigint, bigint, text, text[], timestamptz, timestamptz, bigint) IS
    'A user''s transactions, by descending seq. search is literal text, found anywhere in the description '
    'whatever its case; dates are inclusive; "limit" => NULL is all; before_seq keeps smaller seqs, before skip '
    'counts. 22004 for a NULL user_id or skip, or NULL in transaction_types; 22023 for a negative skip or limit '
    'or an unknown type. Cost: the page and what is skipped or filtered out.';
CREATE FUNCTION credits.list_all_transactions(
    skip bigint DEFAULT 0, "limit" bigint DEFAULT 50,
    search text DEFAULT NULL, transaction_types text[] DEFAULT NULL,
    start_date timestamptz DEFAULT NULL, end_date timestamptz DEFAULT NULL,
    before_seq bigint DEFAULT NULL
) RETURNS SETOF credits.credit_transaction
    LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 50
    AS 'MODULE_PATHNAME', 'list_all_transactions';
COMMENT ON FUNCTION credits.list_all_transactions(bigint, bigint, text, text[], timestamptz, timestamptz, bigint) IS
    'The transactions of all users, by descending seq; arguments and errors as list_user_transactions. Cost: the '
    'page and what is skipped or filtered out.';
CREATE FUNCTION credits.list_transactions_with_batches(
    user_id uuid, skip bigint DEFAULT 0, "limit" bigint DEFAULT 50,
    search text DEFAULT NULL, transaction_types text[] DEFAULT NULL,
    start_date timestamptz DEFAULT NULL, end_date timestamptz DEFAULT NULL,
    before_seq bigint DEFAULT NULL
) RETURNS SETOF credits.transaction_with_category
    LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 50
    AS 'MODULE_PATHNAME', 'list_transactions_with_batches';
COMMENT ON FUNCTION credits.list_transactions_with_batches(uuid, bigint, bigint, text, text[], timestamptz, timestamptz, bigint) IS
    'A user''s history with each batch as one item, by descending seq (of a batch: its highest). A batch''s '
    'description is ''Batch'', its type ''usage'', its date its first row''s. request_origin and batch_sla come '
    'from the table that credits_ledger.analytics_table names, if it exists. Arguments and errors as '
    'list_user_transactions; 42501 if that table may not be read. Cost: the page, what is skipped or filtered '
    'out, and the rows that are not folded yet.';

-- Open holds, next to expire first
CREATE FUNCTION credits.list_holds(user_id uuid, skip bigint DEFAULT 0, "limit" bigint DEFAULT 50) RETURNS SETOF credits.credit_hold
    LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 50
    AS 'MODULE_PATHNAME', 'list_holds';
COMMENT ON FUNCTION credits.list_holds(uuid, bigint, bigint) IS
    'A user''s holds that are open when the statement begins, by ascending expires_at and source_id. "limit" => NULL is all. 22004 '
    'for a NULL user_id or skip; 22023 for a negative skip or limit; 42501 without SELECT on holds. Cost: the page and what is skipped.';

-- Counts: the length of the list with the same filters
CREATE FUNCTION credits.count_user_transactions(
    user_id uuid,
    search text DEFAULT NULL, transaction_types text[] DEFAULT NULL,
    start_date timestamptz DEFAULT NULL, end_date timestamptz DEFAULT NULL
) RETURNS bigint
    LANGUAGE c STABLE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'count_user_transactions';
COMMENT ON FUNCTION credits.count_user_transactions(uuid, text, text[], timestamptz, timestamptz) IS
    'Number of a user''s transactions; filters and errors as list_user_transactions. Cost: without filters that of a balance; with '
    'types and dates the daily totals of the period; with search the user''s rows, or the period''s.';
CREATE FUNCTION credits.count_all_transactions(
    search text DEFAULT NULL, transaction_types text[] DEFAULT NULL,
    start_date timestamptz DEFAULT NULL, end_date timestamptz DEFAULT NULL
) RETURNS bigint
    LANGUAGE c STABLE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'count_all_transactions';
COMMENT ON FUNCTION credits.count_all_transactions(text, text[], timestamptz, timestamptz) IS
    'Number of transactions of all users; filters and errors as list_all_transactions. Cost: a scan of the '
    'ledger, parallel if large.';
CREATE FUNCTION credits.count_transactions_with_batches(
    user_id uuid,
    search text DEFAULT NULL, transaction_types text[] DEFAULT NULL,
    start_date timestamptz DEFAULT NULL, end_date timestamptz DEFAULT NULL
) RETURNS bigint
    LANGUAGE c STABLE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'count_transactions_with_batches';
COMMENT ON FUNCTION credits.count_transactions_with_batches(uuid, text, text[], timestamptz, timestamptz) IS
    'Number of items in a user''s grouped history; filters and errors as list_transactions_with_batches. Cost: '
    'the user''s batches, single rows and rows that are not folded yet.';

-- Sums: credits, signed (purchases and grants add, usage and removals take)
CREATE FUNCTION credits.sum_recent_transactions(
    user_id uuid, count bigint,
    start_date timestamptz DEFAULT NULL, end_date timestamptz DEFAULT NULL
) RETURNS numeric
    LANGUAGE c STABLE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'sum_recent_transactions';
COMMENT ON FUNCTION credits.sum_recent_transactions(uuid, bigint, timestamptz, timestamptz) IS
    'Signed sum of the newest count transactions of a user within the dates (inclusive), exact; 0 if there are '
    'none. 22004 for a NULL user_id or count, 22023 for a negative count. Cost: as the list of these rows.';
CREATE FUNCTION credits.sum_recent_transactions_grouped(
    user_id uuid, count bigint,
    start_date timestamptz DEFAULT NULL, end_date timestamptz DEFAULT NULL
) RETURNS numeric
    LANGUAGE c STABLE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'sum_recent_transactions_grouped';
COMMENT ON FUNCTION credits.sum_recent_transactions_grouped(uuid, bigint, timestamptz, timestamptz) IS
    'Signed sum of the newest count items of a user''s grouped history within the dates (inclusive), exact; 0 if '
    'there are none. 22004 for a NULL user_id or count, 22023 for a negative count. Cost: as the list of these '
    'items.';
CREATE FUNCTION credits.sum_transactions_after_date(user_id uuid, after_date timestamptz) RETURNS numeric
    LANGUAGE c STABLE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'sum_transactions_after_date';
COMMENT ON FUNCTION credits.sum_transactions_after_date(uuid, timestamptz) IS
    'Signed sum of a user''s transactions with created_at > after_date, exact; 0 if there are none. 22004 for NULL. Cost: as '
    'get_user_balance_at.';
CREATE FUNCTION credits.sum_transactions_after_date_grouped(user_id uuid, after_date timestamptz) RETURNS numeric
    LANGUAGE c STABLE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'sum_transactions_after_date_grouped';
COMMENT ON FUNCTION credits.sum_transactions_after_date_grouped(uuid, timestamptz) IS
    'Signed sum of the items of a user''s grouped history that are dated after after_date, exact; 0 if there are '
    'none. 22004 for NULL. Cost: the user''s batches, the single rows after the date and the rows that are not '
    'folded yet.';

-- Automatic top-ups: transactions whose source_id begins with auto_topup_, of any type, in this calendar month (UTC)
CREATE FUNCTION credits.get_monthly_auto_topup_spend(user_id uuid) RETURNS numeric
    LANGUAGE c STABLE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'get_monthly_auto_topup_spend';
COMMENT ON FUNCTION credits.get_monthly_auto_topup_spend(uuid) IS
    'Sum of the amounts, not signed, of a user''s transactions of this month (UTC) whose source_id begins with auto_topup_, of '
    'any type, exact; 0 if none. 22004 for NULL. Cost: these rows.';
CREATE FUNCTION credits.get_monthly_auto_topup_spend_bulk(user_ids uuid[]) RETURNS TABLE (user_id uuid, total numeric)
    LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 100
    AS 'MODULE_PATHNAME', 'get_monthly_auto_topup_spend_bulk';
COMMENT ON FUNCTION credits.get_monthly_auto_topup_spend_bulk(uuid[]) IS
    'Sum of the amounts, not signed, of this month''s (UTC) transactions whose source_id begins with auto_topup_, of any type, '
    'exact, for each of the users that has any, once. 22004 for NULL, also in the array. Cost: these rows and one index lookup '
    'per user.';

-- Forward, for projections and exports
CREATE FUNCTION credits.transactions_after(feed_position text DEFAULT NULL, "limit" bigint DEFAULT 1000)
    RETURNS SETOF credits.feed_item
    LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 1000
    AS 'MODULE_PATHNAME', 'transactions_after';
COMMENT ON FUNCTION credits.transactions_after(text, bigint) IS
    'The ledger read forward: the first "limit" rows (NULL: all) behind a feed_position of an earlier row, or from the beginning,'
    ' in the order of the transactions that inserted them and of seq. It leaves out rows of transactions that are not older than '
    'the oldest open one; a later call returns them. So no row ever belongs before a position that was returned, and each row '
    'comes once. It waits for no transaction, and returns nothing that a crash could take back. Errors: 22023 for a negative limit and a position that is malformed or of another ledger, '
    '42501 without SELECT on the ledger. Cost: a few thousand rows read besides the page; where row-level security filters, a '
    'query.';
