-- Names without a schema are not looked up in the schema credits: ledger.sql says why.
SET LOCAL search_path = pg_catalog, pg_temp;

-- Thresholds are compared with each other, which the expression of a CHECK cannot do by itself. Whoever writes them executes it.
CREATE FUNCTION credits.are_thresholds(thresholds numeric[]) RETURNS boolean
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
        -- min_scale does not count trailing zeros; of NaN and the infinities it is NULL.
        SELECT cardinality(thresholds) <= 16 AND coalesce(array_ndims(thresholds), 1) = 1
               AND coalesce(bool_and(t <> 0 AND abs(t) < 10000000000000 AND min_scale(t) <= 15), true) AND count(t) = cardinality(thresholds)
               AND count(DISTINCT t) = count(t)
        FROM unnest(thresholds) t
    $$;
COMMENT ON FUNCTION credits.are_thresholds(numeric[]) IS
    'Whether these are at most 16 distinct balances other than zero, each of at most 13 integer and 15 fractional digits: for the '
    'constraint of spending_limits.';

-- A user's table: dumped, and replicated where the users say so. What a settlement needs of it is copied into the account's checkpoint.
CREATE TABLE credits.spending_limits (
    user_id         uuid        NOT NULL,
    overdraft_limit numeric     DEFAULT 0,
    thresholds      numeric[]   NOT NULL DEFAULT '{}',
    updated_at      timestamptz NOT NULL DEFAULT clock_timestamp(),

    CONSTRAINT spending_limits_pkey PRIMARY KEY (user_id),
    -- NaN and the infinities are above 10^13; min_scale does not count trailing zeros.
    CONSTRAINT overdraft_limit_is_exact
        CHECK (overdraft_limit >= 0 AND overdraft_limit < 10000000000000 AND min_scale(overdraft_limit) <= 15),
    CONSTRAINT thresholds_are_distinct_balances
        CHECK (credits.are_thresholds(thresholds))
) USING heap WITH (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 5000
);
COMMENT ON TABLE credits.spending_limits IS
    'Boundaries of accounts, for clients to write: how far holds and charges may overdraw one, and at which balances besides zero a '
    'notification is sent. Applies from the commit of the change. An account without a row has the defaults.';
COMMENT ON COLUMN credits.spending_limits.user_id IS 'Account.';
COMMENT ON COLUMN credits.spending_limits.overdraft_limit IS
    'How far below zero holds and charges may take what is available; NULL: without end.';
COMMENT ON COLUMN credits.spending_limits.thresholds IS
    'Balances other than zero whose crossing is announced: at most 16, distinct, of any sign and in any order.';
COMMENT ON COLUMN credits.spending_limits.updated_at IS
    'When the row was last changed: set by each UPDATE, and by an INSERT unless given.';
COMMENT ON CONSTRAINT overdraft_limit_is_exact ON credits.spending_limits IS
    'A limit is exact or refused, never rounded: 0 or above, at most 13 integer and 15 fractional digits.';
COMMENT ON CONSTRAINT thresholds_are_distinct_balances ON credits.spending_limits IS
    'At most 16 distinct balances other than zero, each of at most 13 integer and 15 fractional digits.';

CREATE FUNCTION credits.set_updated_at() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END
    $$;
COMMENT ON FUNCTION credits.set_updated_at() IS 'Trigger: sets updated_at to the time now.';

-- Not in replication: a subscriber keeps the publisher's time.
CREATE TRIGGER set_updated_at
    BEFORE UPDATE ON credits.spending_limits
    FOR EACH ROW EXECUTE FUNCTION credits.set_updated_at();
COMMENT ON TRIGGER set_updated_at ON credits.spending_limits IS 'Says when a row was changed.';

CREATE FUNCTION credits.note_limits() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'note_limits';
COMMENT ON FUNCTION credits.note_limits() IS
    'Trigger: notes the accounts whose boundaries change; when the transaction commits, each is settled with its new ones.';

-- ALWAYS: boundaries that logical replication brings apply on the server they land in.
CREATE TRIGGER note_limits
    AFTER INSERT OR UPDATE OR DELETE ON credits.spending_limits
    FOR EACH ROW EXECUTE FUNCTION credits.note_limits();
ALTER TABLE credits.spending_limits ENABLE ALWAYS TRIGGER note_limits;
COMMENT ON TRIGGER note_limits ON credits.spending_limits IS 'Has accounts settled with the boundaries that they get.';

CREATE TRIGGER note_all_limits
    BEFORE TRUNCATE ON credits.spending_limits
    FOR EACH STATEMENT EXECUTE FUNCTION credits.note_limits();
ALTER TABLE credits.spending_limits ENABLE ALWAYS TRIGGER note_all_limits;
COMMENT ON TRIGGER note_all_limits ON credits.spending_limits IS 'Has all accounts settled that TRUNCATE takes their boundaries from.';

SELECT pg_extension_config_dump('credits.spending_limits', '');

-- Back to the search_path of CREATE EXTENSION.
SET LOCAL search_path = credits, pg_temp;
