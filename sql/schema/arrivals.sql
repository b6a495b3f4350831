-- Names without a schema are not looked up in the schema credits: ledger.sql says why.
SET LOCAL search_path = pg_catalog, pg_temp;

-- How a bucket of accounts that leaves another node comes to this one.

CREATE FUNCTION credits.expect_bucket(bucket int, ledger text) RETURNS xid8
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    copied xid8;
BEGIN
    IF ledger IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'argument ledger must not be NULL';
    ELSIF ledger = credits.get_ledger() THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'a bucket does not move to the ledger that it is in';
    END IF;
    PERFORM credits.lock_bucket(bucket, '{elsewhere,arriving}');
    UPDATE credits.bucket_states s
    SET state = 'arriving', copied_from = ledger, copied_to = CASE WHEN s.copied_from = ledger THEN s.copied_to END,
        received = CASE WHEN s.copied_from = ledger AND s.state = 'arriving' THEN s.received END
    WHERE s.bucket = expect_bucket.bucket
    RETURNING s.copied_to INTO copied;
    RETURN copied;
END
    $$;
COMMENT ON FUNCTION credits.expect_bucket(int, text) IS
    'New node: says that this bucket is arriving from that ledger (get_ledger there): its accounts are refused with LC003 as before, and copies of '
    'their rows are taken. Returns from which transaction of that ledger on it lacks rows, NULL for all. Again: the same. 22004, 22023, 55000 if the '
    'bucket is here, 42501 for anybody but the owner of the ledger.';

CREATE FUNCTION credits.receive_transactions(bucket int, transactions jsonb, copied_to xid8 DEFAULT NULL) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    received bigint;
BEGIN
    IF transactions IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'argument transactions must not be NULL';
    ELSIF jsonb_typeof(transactions) <> 'array' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'argument transactions must be a JSON array';
    ELSIF EXISTS (SELECT FROM jsonb_array_elements(transactions) t WHERE credits.bucket_of((t ->> 'user_id')::uuid) IS DISTINCT FROM bucket) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('argument transactions must have rows of bucket %s only', bucket);
    END IF;
    PERFORM credits.lock_bucket(bucket, '{arriving}');
    PERFORM credits.begin_transfer(bucket);
    INSERT INTO credits.credits_transactions
        (id, user_id, transaction_type, amount, source_id, description, fusillade_batch_id, api_key_id, created_at, seq, category, metadata, reverses)
        OVERRIDING SYSTEM VALUE
    SELECT t.id, t.user_id, t.transaction_type, t.amount, t.source_id, t.description, t.fusillade_batch_id, t.api_key_id, t.created_at, t.seq, t.category, t.metadata,
           t.reverses
    FROM jsonb_populate_recordset(NULL::credits.credits_transactions, transactions) t
    ON CONFLICT (id) DO NOTHING;
    GET DIAGNOSTICS received = ROW_COUNT;
    IF received > 0 THEN
        -- The feed leaves them out.
        INSERT INTO credits.copies (xact_id) VALUES (pg_current_xact_id()) ON CONFLICT DO NOTHING;
    END IF;
    IF copied_to IS NOT NULL THEN
        UPDATE credits.bucket_states s SET copied_to = receive_transactions.copied_to WHERE s.bucket = receive_transactions.bucket;
    END IF;
    RETURN received;
END
    $$;
COMMENT ON FUNCTION credits.receive_transactions(int, jsonb, xid8) IS
    'New node: takes copies of rows (a JSON array of rows as bucket_transactions returns them) as far as it lacks them, by id, and returns how many. '
    'Nothing is announced. With copied_to it notes that it has all rows below that transaction of the old ledger, for good: so not in the transaction '
    'that holds the bucket. 22004, 22023, 23505 if a source_id is taken here, 55000 if the bucket is not arriving, 42501 for anybody but the owner of '
    'the ledger.';

CREATE FUNCTION credits.put_holds_and_boundaries(bucket int, handover jsonb) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    -- Whoever has a hold here from an earlier stay is among them.
    accounts constant uuid[] := ARRAY(SELECT (a ->> 'user_id')::uuid FROM jsonb_array_elements(handover -> 'accounts') a);
BEGIN
    -- A handover that was stored has no texts: those of a hold that has been received stay.
    DELETE FROM credits.holds h
    WHERE h.user_id = ANY (accounts)
      AND NOT EXISTS (SELECT FROM jsonb_array_elements(handover -> 'holds') n WHERE n ->> 'source_id' = h.source_id AND jsonb_populate_record(h, n) = h);
    INSERT INTO credits.holds SELECT n.* FROM jsonb_populate_recordset(NULL::credits.holds, handover -> 'holds') n
    WHERE NOT EXISTS (SELECT FROM credits.holds h WHERE h.source_id = n.source_id AND h.user_id = n.user_id);
    DELETE FROM credits.spending_limits l
    WHERE credits.bucket_of(l.user_id) = bucket AND NOT EXISTS (SELECT FROM jsonb_populate_recordset(NULL::credits.spending_limits, handover -> 'limits') n WHERE n = l);
    INSERT INTO credits.spending_limits SELECT n.* FROM jsonb_populate_recordset(NULL::credits.spending_limits, handover -> 'limits') n
    WHERE NOT EXISTS (SELECT FROM credits.spending_limits l WHERE l.user_id = n.user_id AND l = n);
    DELETE FROM credits.spend_caps c
    WHERE credits.bucket_of(c.user_id) = bucket AND NOT EXISTS (SELECT FROM jsonb_populate_recordset(NULL::credits.spend_caps, handover -> 'caps') n WHERE n = c);
    INSERT INTO credits.spend_caps SELECT n.* FROM jsonb_populate_recordset(NULL::credits.spend_caps, handover -> 'caps') n
    WHERE NOT EXISTS (SELECT FROM credits.spend_caps c WHERE c.id = n.id AND c = n);
END
    $$;
COMMENT ON FUNCTION credits.put_holds_and_boundaries(int, jsonb) IS
    'For receive_handover and activate_bucket: makes holds, limits and caps of an arriving bucket those of the handover.';

CREATE FUNCTION credits.require_handover(bucket int, handover jsonb) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF handover IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'argument handover must not be NULL';
    ELSIF jsonb_typeof(handover) <> 'object' OR jsonb_typeof(handover -> 'accounts') IS DISTINCT FROM 'array' OR jsonb_typeof(handover -> 'holds') IS DISTINCT FROM 'array'
          OR jsonb_typeof(handover -> 'limits') IS DISTINCT FROM 'array' OR jsonb_typeof(handover -> 'caps') IS DISTINCT FROM 'array'
          OR handover ->> 'ledger' IS NULL OR (handover ->> 'seq' ~ '^[0-9]{1,19}$') IS NOT TRUE OR (handover ->> 'position' ~ '^[0-9]{1,19}$') IS NOT TRUE THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'argument handover must be what bucket_handover has returned';
    ELSIF EXISTS (SELECT FROM unnest(ARRAY['accounts', 'holds', 'limits', 'caps']) of, jsonb_array_elements(handover -> of) a
                  WHERE credits.bucket_of((a ->> 'user_id')::uuid) IS DISTINCT FROM bucket) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('argument handover must be that of bucket %s', bucket);
    ELSIF handover ->> 'given_to' <> (SELECT n.node_number::text FROM credits.node n) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('bucket %s was given to node %s', bucket, handover ->> 'given_to');
    END IF;
END
    $$;
COMMENT ON FUNCTION credits.require_handover(int, jsonb) IS
    'For receive_handover and activate_bucket: raises 22004 or 22023 unless this is a handover of the bucket, and 55000 if it is for another node.';

-- The new node has got every row of the old one. So it has no others, if it has as many.
CREATE FUNCTION credits.require_same_rows(bucket int, handover jsonb) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    differing record;
BEGIN
    SELECT there.user_id, here.balance AS balance_here, here.transaction_count AS count_here, there.balance, there.transaction_count INTO differing
    FROM jsonb_to_recordset(handover -> 'accounts') AS there (user_id uuid, balance numeric, transaction_count bigint)
    CROSS JOIN LATERAL (SELECT credits.get_user_balance(there.user_id) AS balance, credits.count_user_transactions(there.user_id) AS transaction_count) here
    WHERE (there.balance, there.transaction_count) IS DISTINCT FROM (here.balance, here.transaction_count)
    ORDER BY there.user_id LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('account %s of bucket %s has not the rows of the handover', differing.user_id, bucket),
            DETAIL = format('Here it has %s (rows: %s), by the handover %s (rows: %s). Rows of it are missing here, or there are rows that the old '
                            'node does not have. One of the two may have lost commits.',
                            trim_scale(differing.balance_here), differing.count_here, coalesce(trim_scale(differing.balance)::text, 'none'), coalesce(differing.transaction_count::text, 'none')),
            HINT = CASE WHEN handover @> '{"is_purged": true}' THEN 'The old node has purged its rows, so keep those that are here: no other node has them.'
                        ELSE format('Compare its rows on both nodes. SELECT credits.return_bucket(%1$s), credits.purge_bucket(%1$s) on the new node '
                                    'removes what that has; then all is copied that the old node has.', bucket) END;
    END IF;
END
    $$;
COMMENT ON FUNCTION credits.require_same_rows(int, jsonb) IS
    'For receive_handover and activate_bucket, after begin_transfer: raises 55000 unless the accounts have the balances and as many rows as the handover says.';

CREATE FUNCTION credits.receive_handover(bucket int, handover jsonb) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM credits.require_handover(bucket, handover);
    PERFORM credits.lock_bucket(bucket, '{arriving}');
    PERFORM credits.begin_transfer(bucket);
    UPDATE credits.bucket_states s SET received = (receive_handover.handover ->> 'position')::xid8
    WHERE s.bucket = receive_handover.bucket AND s.copied_from = receive_handover.handover ->> 'ledger';
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('bucket %s is arriving from another ledger', bucket);
    END IF;
    PERFORM credits.require_same_rows(bucket, handover);
    PERFORM credits.put_holds_and_boundaries(bucket, handover);
END
    $$;
COMMENT ON FUNCTION credits.receive_handover(int, jsonb) IS
    'New node, when the last rows have been received: makes holds, limits and caps of the bucket those of the handover, and notes that it has all '
    'that the handover lists. Nothing is announced. 22004, 22023, 23505 if a source_id of a hold is taken here, 55000 if the bucket is not arriving '
    'from that ledger, or an account has other rows here, 42501 for anybody but the owner of the ledger.';

CREATE FUNCTION credits.activate_bucket(bucket int, handover jsonb) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM credits.require_handover(bucket, handover);
    IF credits.lock_bucket(bucket, '{here,arriving}') = 'here' THEN
        RETURN false;
    ELSIF EXISTS (SELECT FROM credits.bucket_states s
                  WHERE s.bucket = activate_bucket.bucket AND (s.handover ->> 'seq')::bigint >= (activate_bucket.handover ->> 'seq')::bigint) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('bucket %s was given away since this handover', bucket),
            DETAIL = 'Another node has it by now, or is to have it.';
    ELSIF NOT EXISTS (SELECT FROM credits.bucket_states s WHERE s.bucket = activate_bucket.bucket AND s.copied_from = activate_bucket.handover ->> 'ledger'
                                                            AND s.received = (activate_bucket.handover ->> 'position')::xid8) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('bucket %s has not received this handover', bucket),
            HINT = 'Copy its rows again, from where expect_bucket says, and call receive_handover.';
    END IF;
    PERFORM credits.begin_transfer(bucket);
    -- They were compared when the handover was received. Since then a standby may have taken over.
    PERFORM credits.require_same_rows(bucket, handover);
    PERFORM credits.put_holds_and_boundaries(bucket, handover);
    PERFORM credits.advance_seq((handover ->> 'seq')::bigint);
    INSERT INTO credits.taken_buckets AS t (bucket, seq) VALUES (activate_bucket.bucket, (activate_bucket.handover ->> 'seq')::bigint)
    ON CONFLICT ON CONSTRAINT taken_buckets_pkey DO UPDATE SET seq = excluded.seq;
    DELETE FROM credits.bucket_states s WHERE s.bucket = activate_bucket.bucket;
    -- What the old node has announced counts as announced here. This also voids what sessions have published of these accounts when they were here before.
    INSERT INTO credits.user_balance_checkpoints AS c
        (user_id, checkpoint_seq, balance, updated_at, transaction_count, watermark, stragglers, is_positive, crossed_at, thresholds, thresholds_below, thresholds_crossed_at,
         has_days, cap_ids, caps_reached_until)
    SELECT a.user_id, 0, 0, clock_timestamp(), 0, '0', '{}', a.is_positive, a.crossed_at, a.thresholds, a.thresholds_below, a.thresholds_crossed_at, true, a.cap_ids,
           a.caps_reached_until
    FROM jsonb_populate_recordset(NULL::credits.user_balance_checkpoints, handover -> 'accounts') a
    ON CONFLICT (user_id) DO UPDATE
    SET is_positive = excluded.is_positive, crossed_at = excluded.crossed_at, thresholds = excluded.thresholds, thresholds_below = excluded.thresholds_below,
        thresholds_crossed_at = excluded.thresholds_crossed_at, cap_ids = excluded.cap_ids, caps_reached_until = excluded.caps_reached_until;
    -- The commit then decides about each of them.
    PERFORM credits.refresh_checkpoint((a ->> 'user_id')::uuid) FROM jsonb_array_elements(handover -> 'accounts') a;
    RETURN true;
END
    $$;
COMMENT ON FUNCTION credits.activate_bucket(int, jsonb) IS
    'New node, when the old one has given the bucket away with this handover: the bucket is here. Returns false if it is already. What the old node '
    'has announced is not announced again; what it had not got to is, by this commit, which waits for the stripes of all accounts. seq goes on above '
    'that of the handover. 22004, 22023, 55000 if the bucket has not all that the handover lists, or other rows, or was given away by this node after '
    'this handover, 42501 for anybody but the owner of the ledger.';

CREATE FUNCTION credits.return_bucket(bucket int) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF credits.lock_bucket(bucket, '{elsewhere,arriving}') = 'elsewhere' THEN
        RETURN false;
    END IF;
    PERFORM credits.begin_transfer(bucket);
    UPDATE credits.bucket_states s SET state = 'elsewhere', received = NULL WHERE s.bucket = return_bucket.bucket;
    PERFORM credits.drop_holds_and_boundaries(bucket);
    RETURN true;
END
    $$;
COMMENT ON FUNCTION credits.return_bucket(int) IS
    'New node: takes expect_bucket back; false if the bucket is elsewhere anyway. Deletes its holds, limits and caps here; rows that were copied stay '
    'until purge_bucket, and are not copied again. Only once the old node has the bucket for good. 22004, 22023, 55000 if the bucket is here, 42501 '
    'for anybody but the owner of the ledger.';

-- Back to the search_path of CREATE EXTENSION.
SET LOCAL search_path = credits, pg_temp;
