-- Names without a schema are not looked up in the schema credits: ledger.sql says why.
SET LOCAL search_path = pg_catalog, pg_temp;

-- A user's table: dumped, and replicated where the users say so. Rows live for minutes, so that nearly all of what was ever in it is gone.
CREATE TABLE credits.holds (
    source_id          text        NOT NULL,
    user_id            uuid        NOT NULL,
    amount             numeric     NOT NULL,
    description        text,
    fusillade_batch_id uuid,
    api_key_id         uuid,
    category           text,
    metadata           jsonb,
    created_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at         timestamptz NOT NULL,

    CONSTRAINT holds_pkey PRIMARY KEY (source_id),
    CONSTRAINT amount_is_positive_and_exact
        CHECK (credits.is_amount(amount))
) USING heap WITH (
    -- Room on the page for the new version of a hold that is extended.
    fillfactor = 90,
    -- Absolute thresholds: the rows that are there say nothing of how many have come and gone.
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 20000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 100000
);
-- The open holds of an account are one range of it, which leaves out those that have expired; list_holds walks it.
CREATE INDEX holds_user_idx ON credits.holds (user_id, expires_at);

COMMENT ON TABLE credits.holds IS
    'Credits that are held for usage to come. A hold is open until expires_at; capture_hold and release_hold delete it. What is '
    'available to an account is its balance less its open holds.';
COMMENT ON COLUMN credits.holds.source_id IS
    'Idempotency key: unique among holds, and that of the ledger row when it is captured.';
COMMENT ON COLUMN credits.holds.user_id IS 'Account that the credits belong to.';
COMMENT ON COLUMN credits.holds.amount IS 'Credits held, always positive: at most 13 integer and 15 fractional digits.';
COMMENT ON COLUMN credits.holds.description IS 'Free text for people; that of the ledger row when it is captured.';
COMMENT ON COLUMN credits.holds.fusillade_batch_id IS 'Batch of the usage that it is for, if any.';
COMMENT ON COLUMN credits.holds.api_key_id IS 'API key that asked for it, if any.';
COMMENT ON COLUMN credits.holds.category IS
    'What it is for: a model, a product, a tier. At most 200 characters; NULL unless given.';
COMMENT ON COLUMN credits.holds.metadata IS 'The application''s own: a JSON object; NULL unless given.';
COMMENT ON COLUMN credits.holds.created_at IS 'When it was made, unless the client says otherwise.';
COMMENT ON COLUMN credits.holds.expires_at IS 'Until when it is open. The only column that may be updated.';
COMMENT ON CONSTRAINT amount_is_positive_and_exact ON credits.holds IS
    'An amount is exact or refused, never rounded: above 0, at most 13 integer and 15 fractional digits.';
COMMENT ON INDEX credits.holds_user_idx IS 'Finds the open holds of a user.';

CREATE FUNCTION credits.refuse_hold_change() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'refuse_hold_change';
COMMENT ON FUNCTION credits.refuse_hold_change() IS
    'Trigger: refuses an UPDATE of holds that changes more than expires_at, and TRUNCATE, with SQLSTATE 55000.';

-- Behind the row, so that it sees what triggers of others have made of it. ALWAYS: also where logical replication applies changes.
CREATE TRIGGER only_extended
    AFTER UPDATE ON credits.holds
    FOR EACH ROW EXECUTE FUNCTION credits.refuse_hold_change();
ALTER TABLE credits.holds ENABLE ALWAYS TRIGGER only_extended;
COMMENT ON TRIGGER only_extended ON credits.holds IS 'Refuses an UPDATE that changes more than expires_at.';

CREATE TRIGGER never_truncated
    BEFORE TRUNCATE ON credits.holds
    FOR EACH STATEMENT EXECUTE FUNCTION credits.refuse_hold_change();
ALTER TABLE credits.holds ENABLE ALWAYS TRIGGER never_truncated;
COMMENT ON TRIGGER never_truncated ON credits.holds IS 'Refuses TRUNCATE.';

CREATE FUNCTION credits.note_hold() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'note_hold';
COMMENT ON FUNCTION credits.note_hold() IS
    'Trigger: notes what a hold that is made, extended or deleted does to the credits that are available; its account is settled '
    'when the transaction commits. Refuses a blank source_id, a category that is too long and metadata that is no object.';

CREATE TRIGGER note_hold
    AFTER INSERT OR UPDATE OR DELETE ON credits.holds
    FOR EACH ROW EXECUTE FUNCTION credits.note_hold();
ALTER TABLE credits.holds ENABLE ALWAYS TRIGGER note_hold;
COMMENT ON TRIGGER note_hold ON credits.holds IS
    'Notes the accounts whose available credits the transaction changes; they are settled when it commits.';

SELECT pg_extension_config_dump('credits.holds', '');

-- Back to the search_path of CREATE EXTENSION.
SET LOCAL search_path = credits, pg_temp;
