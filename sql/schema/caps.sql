-- Names without a schema are not looked up in the schema credits: ledger.sql says why.
SET LOCAL search_path = pg_catalog, pg_temp;

-- A user's table: dumped, and replicated where the users say so. What was announced of a cap is in the account's checkpoint.
CREATE TABLE credits.spend_caps (
    id          uuid        NOT NULL DEFAULT gen_random_uuid(),
    user_id     uuid        NOT NULL,
    api_key_ids uuid[],
    period      text,
    amount      numeric     NOT NULL,
    since       timestamptz NOT NULL DEFAULT now(),
    is_enforced boolean     NOT NULL DEFAULT false,

    CONSTRAINT spend_caps_pkey PRIMARY KEY (id),
    CONSTRAINT api_key_ids_has_keys
        CHECK (CASE WHEN api_key_ids IS NULL THEN true
                    WHEN array_ndims(api_key_ids) = 1 THEN array_position(api_key_ids, NULL::uuid) IS NULL
                    ELSE false END),
    CONSTRAINT period_is_known
        CHECK (period IN ('daily', 'weekly', 'monthly')),
    CONSTRAINT amount_is_positive_and_exact
        CHECK (credits.is_amount(amount))
) USING heap WITH (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 5000
);
-- A commit reads the caps of an account that has some.
CREATE INDEX spend_caps_user_idx ON credits.spend_caps (user_id);

COMMENT ON TABLE credits.spend_caps IS
    'How much of an account''s usage is to be announced, or refused, in a day, a week, a month or altogether, for clients to write. Applies '
    'from the commit of the change. At most 16 for an account.';
COMMENT ON COLUMN credits.spend_caps.id IS 'Identity of the cap, named in notifications; random unless given.';
COMMENT ON COLUMN credits.spend_caps.user_id IS 'Account.';
COMMENT ON COLUMN credits.spend_caps.api_key_ids IS
    'API keys whose usage counts: at least one; NULL: all usage of the account, also without a key.';
COMMENT ON COLUMN credits.spend_caps.period IS
    'After what spending begins anew: daily, weekly (from Monday) or monthly, in UTC; NULL: never.';
COMMENT ON COLUMN credits.spend_caps.amount IS
    'Spending that reaches it reaches the cap: above 0, at most 13 integer and 15 fractional digits.';
COMMENT ON COLUMN credits.spend_caps.since IS 'Usage from before does not count. Setting it to now() resets the cap.';
COMMENT ON COLUMN credits.spend_caps.is_enforced IS 'Whether holds and charges that would exceed it are refused.';
COMMENT ON CONSTRAINT api_key_ids_has_keys ON credits.spend_caps IS
    'A list of keys names at least one, in one dimension and without NULL.';
COMMENT ON CONSTRAINT period_is_known ON credits.spend_caps IS 'The three periods.';
COMMENT ON CONSTRAINT amount_is_positive_and_exact ON credits.spend_caps IS
    'An amount is exact or refused, never rounded: above 0, at most 13 integer and 15 fractional digits.';
COMMENT ON INDEX credits.spend_caps_user_idx IS 'Finds the caps of a user.';

CREATE FUNCTION credits.note_caps() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'note_caps';
COMMENT ON FUNCTION credits.note_caps() IS
    'Trigger: notes the accounts whose caps change; when the transaction commits, each is settled with its new ones.';

-- ALWAYS: caps that logical replication brings apply on the server they land in.
CREATE TRIGGER note_caps
    AFTER INSERT OR UPDATE OR DELETE ON credits.spend_caps
    FOR EACH ROW EXECUTE FUNCTION credits.note_caps();
ALTER TABLE credits.spend_caps ENABLE ALWAYS TRIGGER note_caps;
COMMENT ON TRIGGER note_caps ON credits.spend_caps IS 'Has accounts settled with the caps that they get.';

CREATE TRIGGER note_all_caps
    BEFORE TRUNCATE ON credits.spend_caps
    FOR EACH STATEMENT EXECUTE FUNCTION credits.note_caps();
ALTER TABLE credits.spend_caps ENABLE ALWAYS TRIGGER note_all_caps;
COMMENT ON TRIGGER note_all_caps ON credits.spend_caps IS 'Has all accounts settled that TRUNCATE takes their caps from.';

SELECT pg_extension_config_dump('credits.spend_caps', '');

-- Back to the search_path of CREATE EXTENSION.
SET LOCAL search_path = credits, pg_temp;
