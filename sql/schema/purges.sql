-- Names without a schema are not looked up in the schema credits: ledger.sql says why.
SET LOCAL search_path = pg_catalog, pg_temp;

-- What a node has kept of a bucket that has left it is removed, and a proof of it stays.

CREATE FUNCTION credits.bucket_digest(bucket int) RETURNS TABLE (transaction_count bigint, balance numeric, digest text)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
    AS $$
BEGIN
    PERFORM credits.bucket_state(bucket);
    RETURN QUERY
    SELECT count(*), coalesce(sum(CASE WHEN t.transaction_type IN ('purchase', 'admin_grant') THEN t.amount ELSE -t.amount END), 0),
           encode(sha256(coalesce(string_agg(sha256(convert_to((to_jsonb(t) - 'xact_id')::text, 'UTF8')), '' ORDER BY t.id), '')), 'hex')
    FROM credits.credits_transactions t
    WHERE credits.bucket_of(t.user_id) = bucket_digest.bucket;
END
    $$;
COMMENT ON FUNCTION credits.bucket_digest(int) IS
    'How many rows of this bucket are here, their signed sum, and a SHA-256 of all their columns but xact_id: two nodes that have the same rows have '
    'the same. Reads as the caller sees the ledger. Costs a scan of the ledger. 22004, 22023, 42501 without SELECT on the ledger and on bucket_states.';

-- The proof of what was removed. Dumped.
CREATE TABLE credits.purged_buckets (
    bucket            smallint    NOT NULL,
    purged_at         timestamptz NOT NULL,
    transaction_count bigint      NOT NULL,
    balance           numeric     NOT NULL,
    digest            text        NOT NULL,

    CONSTRAINT purged_buckets_pkey PRIMARY KEY (bucket, purged_at)
) USING heap WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_analyze_scale_factor = 0);
COMMENT ON TABLE credits.purged_buckets IS
    'What purge_bucket has removed of buckets that have left this node. Written by purge_bucket.';
COMMENT ON COLUMN credits.purged_buckets.bucket IS 'Bucket, as bucket_of names it.';
COMMENT ON COLUMN credits.purged_buckets.purged_at IS 'When it was purged.';
COMMENT ON COLUMN credits.purged_buckets.transaction_count IS 'How many rows of the ledger were removed.';
COMMENT ON COLUMN credits.purged_buckets.balance IS 'Their signed sum.';
COMMENT ON COLUMN credits.purged_buckets.digest IS 'Their digest, as bucket_digest returned it.';

CREATE TRIGGER leave_out_replicated
    BEFORE INSERT OR UPDATE OR DELETE ON credits.purged_buckets
    FOR EACH ROW EXECUTE FUNCTION credits.leave_out();
ALTER TABLE credits.purged_buckets ENABLE REPLICA TRIGGER leave_out_replicated;
COMMENT ON TRIGGER leave_out_replicated ON credits.purged_buckets IS 'Skips what another node has purged, which replication brings.';

SELECT pg_extension_config_dump('credits.purged_buckets', '');

CREATE FUNCTION credits.purge_bucket(bucket int) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    removed bigint;
BEGIN
    PERFORM credits.lock_bucket(bucket, '{elsewhere}');
    PERFORM credits.begin_transfer(bucket);
    INSERT INTO credits.purged_buckets (bucket, purged_at, transaction_count, balance, digest)
    SELECT purge_bucket.bucket, clock_timestamp(), d.transaction_count, d.balance, d.digest FROM credits.bucket_digest(bucket) d
    WHERE d.transaction_count > 0;
    DELETE FROM credits.credits_transactions t WHERE credits.bucket_of(t.user_id) = purge_bucket.bucket;
    GET DIAGNOSTICS removed = ROW_COUNT;
    DELETE FROM credits.user_balance_checkpoints c WHERE credits.bucket_of(c.user_id) = purge_bucket.bucket;
    DELETE FROM credits.batch_aggregates b WHERE credits.bucket_of(b.user_id) = purge_bucket.bucket;
    DELETE FROM credits.daily_totals d WHERE credits.bucket_of(d.user_id) = purge_bucket.bucket;
    PERFORM credits.drop_holds_and_boundaries(bucket);
    UPDATE credits.bucket_states s SET copied_from = NULL, copied_to = NULL, handover = s.handover || '{"is_purged": true}' WHERE s.bucket = purge_bucket.bucket;
    RETURN removed;
END
    $$;
COMMENT ON FUNCTION credits.purge_bucket(int) IS
    'Removes the rows of a bucket that is elsewhere, and all that was derived from them, and returns how many rows of the ledger; leaves count, sum '
    'and digest in purged_buckets. Only once the node that has the bucket is known to keep it: nothing else has these rows then. The bucket stays '
    'elsewhere. 22004, 22023, 55000 if it is not elsewhere, 42501 for anybody but the owner of the ledger.';

-- Back to the search_path of CREATE EXTENSION.
SET LOCAL search_path = credits, pg_temp;
