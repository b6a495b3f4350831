-- What was spent when, statements, and balances of the past. Days are those of UTC whatever the session's time zone. As all reading
-- functions, these answer for the rows that the caller's snapshot and row-level security show, whenever those were written and
-- whatever dates they bear.

CREATE FUNCTION credits.usage_by_day(user_id uuid, start_date date DEFAULT NULL, end_date date DEFAULT NULL)
    RETURNS TABLE (
        day date, category text, api_key_id uuid, transaction_type text, total_amount numeric, transaction_count bigint
    )
    LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 100
    AS 'MODULE_PATHNAME', 'usage_by_day';
COMMENT ON FUNCTION credits.usage_by_day(uuid, date, date) IS
    'Totals of a user''s transactions of every type by day of created_at (UTC), category and API key, exact now, amounts not signed; '
    'ordered by day, transaction_type, category, api_key_id, NULLs last. Both dates are inclusive; NULL: no bound. 22004 for a NULL '
    'user_id. Cost: the totals of these days and the rows that are not folded yet. Without daily totals or under row-level security, the '
    'user''s rows within the dates.';
CREATE FUNCTION credits.get_user_balance_at(user_id uuid, at timestamptz) RETURNS numeric
    LANGUAGE c STABLE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'get_user_balance_at';
COMMENT ON FUNCTION credits.get_user_balance_at(uuid, timestamptz) IS
    'Signed sum of a user''s transactions with created_at <= at, exact; 0 if there are none. 22004 for NULL. Cost: the daily totals before '
    'or after at, whichever days are fewer; of the day of at, the rows before or after it; and the rows that are not folded yet. Without '
    'daily totals or under row-level security, the rows up to at.';
CREATE FUNCTION credits.account_statement(user_id uuid, period_start timestamptz, period_end timestamptz)
    RETURNS TABLE (line text, amount numeric, transaction_count bigint)
    LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 6
    AS 'MODULE_PATHNAME', 'account_statement';
COMMENT ON FUNCTION credits.account_statement(uuid, timestamptz, timestamptz) IS
    'A user''s statement for the time from period_start up to, not including, period_end, in six lines: opening (the rows before '
    'period_start), purchase, admin_grant, usage, admin_removal (the rows of the period), closing (the rows before period_end), '
    'each with its signed sum and the number of its rows. Opening and the lines of the types add up to closing. 22004 for NULL, 22023 '
    'unless period_end is after period_start. Cost: the daily totals of the period, and of the days before or after it; of the days in '
    'which it begins and ends, the rows before or after that; and the rows that are not folded yet. Without daily totals or under '
    'row-level security, the user''s rows before period_end.';
CREATE FUNCTION credits.list_user_transactions_with_balance(
    user_id uuid, skip bigint DEFAULT 0, "limit" bigint DEFAULT 50,
    search text DEFAULT NULL, transaction_types text[] DEFAULT NULL,
    start_date timestamptz DEFAULT NULL, end_date timestamptz DEFAULT NULL,
    before_seq bigint DEFAULT NULL
) RETURNS SETOF credits.transaction_with_balance
    LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 50
    AS 'MODULE_PATHNAME', 'list_user_transactions_with_balance';
COMMENT ON FUNCTION credits.list_user_transactions_with_balance(
    uuid, bigint, bigint, text, text[], timestamptz, timestamptz, bigint) IS
    'A user''s transactions as list_user_transactions lists them, each with balance_after: the signed sum of the user''s transactions up '
    'to and including this seq, also of those that filters leave out. Arguments and errors as list_user_transactions. Cost: as '
    'list_user_transactions; the rows between those of the page; and, for a page that is not the newest one, twice the rows on the shorter '
    'way to it: from the newest row, or from the first. Where row-level security filters, the rows up to the page''s newest.';
