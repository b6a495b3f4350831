-- Takes over the transactions that an application has kept in a table of its own.

CREATE FUNCTION credits.import_query(source regclass) RETURNS text
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    expected record;
    found_type regtype;
    columns text[];
BEGIN
    IF source IS NULL THEN
        RAISE EXCEPTION 'argument source must not be NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    FOR expected IN
        SELECT *
        FROM (VALUES
            ('id', true, 'uuid', '{uuid}'::regtype[]),
            ('user_id', true, 'uuid', '{uuid}'),
            ('transaction_type', true, 'text', '{text, varchar}'),
            -- Not floating point: it has been rounded already.
            ('amount', true, 'numeric', '{numeric, bigint, integer}'),
            ('source_id', true, 'text', '{text, varchar}'),
            ('description', false, 'text', '{text, varchar}'),
            ('fusillade_batch_id', false, 'uuid', '{uuid}'),
            ('api_key_id', false, 'uuid', '{uuid}'),
            -- Not without a time zone: what it means would depend on the session.
            ('created_at', true, 'timestamptz', '{timestamptz}'),
            ('seq', true, 'bigint', '{bigint}'),
            ('category', false, 'text', '{text, varchar}'),
            ('metadata', false, 'jsonb', '{jsonb}'),
            ('reverses', false, 'uuid', '{uuid}')
        ) AS e (name, is_required, type, accepted)
    LOOP
        SELECT a.atttypid INTO found_type
        FROM pg_attribute a
        WHERE a.attrelid = source AND a.attname = expected.name AND a.attnum > 0 AND NOT a.attisdropped;
        IF FOUND AND NOT (found_type = ANY (expected.accepted)
                          OR expected.name = 'transaction_type'
                             AND EXISTS (SELECT FROM pg_type t WHERE t.oid = found_type AND t.typtype = 'e')) THEN
            RAISE EXCEPTION 'column % of % is of type %, not of type %', expected.name, source, found_type, expected.type
                USING ERRCODE = 'datatype_mismatch', HINT = 'Import from a view that has the column converted.';
        ELSIF FOUND THEN
            columns := columns || format('s.%I::%s%s AS %1$I', expected.name, expected.type,
                                         CASE expected.type WHEN 'text' THEN ' COLLATE "default"' END);
        ELSIF expected.is_required THEN
            RAISE EXCEPTION '% has no column %', source, expected.name
                USING ERRCODE = 'undefined_column', HINT = 'Import from a view that has the column under this name.';
        ELSE
            columns := columns || format('NULL::%s AS %I', expected.type, expected.name);
        END IF;
    END LOOP;
    RETURN format('SELECT %s FROM %s s', array_to_string(columns, ', '), source);
END
    $$;
COMMENT ON FUNCTION credits.import_query(regclass) IS
    'For import_transactions: the query that reads the source in the columns and types of the ledger. Errors: 22004 for '
    'NULL, 42703 for a missing column, 42804 for one of another type.';

CREATE FUNCTION credits.unimportable_transactions(source regclass)
    RETURNS TABLE (id uuid, seq bigint, reason text)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET row_security = off
    AS $$
DECLARE
    query text := credits.import_query(source);
    key name;
BEGIN
    RETURN QUERY EXECUTE format($query$
        SELECT c.id, c.seq, c.reason
        FROM (
            SELECT s.id, s.seq, concat_ws('; ',
                CASE WHEN s.id IS NULL THEN 'id is NULL' END,
                CASE WHEN s.user_id IS NULL THEN 'user_id is NULL' END,
                CASE WHEN s.transaction_type IS NULL THEN 'transaction_type is NULL'
                     WHEN s.transaction_type NOT IN ('purchase', 'admin_grant', 'admin_removal', 'usage')
                         THEN format('transaction_type "%%s" is unknown', s.transaction_type) END,
                CASE WHEN s.amount IS NULL THEN 'amount is NULL'
                     WHEN s.amount <= 0 THEN format('amount %%s is not above 0', s.amount)
                     -- NaN and the infinities are above all numbers.
                     WHEN s.amount >= 10000000000000 THEN format('amount %%s has more than 13 integer digits', s.amount)
                     WHEN min_scale(s.amount) > 15 THEN format('amount %%s has more than 15 fractional digits', s.amount) END,
                CASE WHEN s.source_id IS NULL THEN 'source_id is NULL'
                     WHEN s.source_id !~ E'\\S' THEN format('source_id "%%s" is blank', s.source_id)
                     -- The index may hold a longer one, if it can be compressed.
                     WHEN octet_length(s.source_id) > 2692
                         THEN format('source_id has %%s bytes, more than the 2692 that fit its index',
                                     octet_length(s.source_id)) END,
                CASE WHEN s.fusillade_batch_id IS NOT NULL AND s.transaction_type <> 'usage'
                         THEN format('fusillade_batch_id %%s on a row that is not usage', s.fusillade_batch_id) END,
                CASE WHEN s.created_at IS NULL THEN 'created_at is NULL'
                     WHEN NOT isfinite(s.created_at) THEN format('created_at is %%s', s.created_at) END,
                CASE WHEN s.seq IS NULL THEN 'seq is NULL'
                     WHEN s.seq >= 4611686018427387904 THEN format('seq %%s is not below 4611686018427387904', s.seq) END,
                CASE WHEN char_length(s.category) > 200
                         THEN format('category has %%s characters, more than 200', char_length(s.category)) END,
                CASE WHEN jsonb_typeof(s.metadata) <> 'object'
                         THEN format('metadata is not an object but of type %%s', jsonb_typeof(s.metadata)) END) AS reason
            FROM (%s) s
        ) c
        WHERE c.reason <> ''
        $query$, query);
    FOREACH key IN ARRAY '{id, source_id, seq}'::name[] LOOP
        CONTINUE WHEN EXISTS (
            SELECT FROM pg_index i
            JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
            WHERE i.indrelid = source AND a.attname = key AND i.indnkeyatts = 1 AND i.indisunique AND i.indisvalid
              AND i.indpred IS NULL);
        RETURN QUERY EXECUTE format($query$
            SELECT s.id, s.seq, format('%2$s %%s occurs %%s times', s.%2$I, d.times)
            FROM (%1$s) s
            JOIN (SELECT s.%2$I, count(*) AS times FROM (%1$s) s GROUP BY s.%2$I HAVING count(*) > 1) d ON d.%2$I = s.%2$I
            $query$, query, key);
    END LOOP;
    -- Who has no reversals need not be able to read the ledger.
    IF NOT EXISTS (SELECT FROM pg_attribute a
                   WHERE a.attrelid = source AND a.attname = 'reverses' AND a.attnum > 0 AND NOT a.attisdropped) THEN
        RETURN;
    END IF;
    RETURN QUERY EXECUTE format($query$
        WITH reversal AS MATERIALIZED (
            SELECT s.* FROM (%1$s) s WHERE s.reverses IS NOT NULL
        ),
        original AS (
            SELECT DISTINCT ON (o.id) o.*
            FROM (
                SELECT s.id, s.user_id, s.transaction_type, s.amount, s.reverses
                FROM (%1$s) s
                WHERE s.id IN (SELECT r.reverses FROM reversal r)
                UNION ALL
                SELECT t.id, t.user_id, t.transaction_type, t.amount, t.reverses
                FROM credits.credits_transactions t
                WHERE t.id IN (SELECT r.reverses FROM reversal r)
            ) o
        ),
        taken_back AS (
            SELECT b.reverses, b.user_id, sum(b.amount) AS amount
            FROM (
                SELECT r.reverses, r.user_id, r.amount FROM reversal r
                UNION ALL
                SELECT t.reverses, t.user_id, t.amount
                FROM credits.credits_transactions t
                WHERE t.reverses IN (SELECT r.reverses FROM reversal r)
                  AND NOT EXISTS (SELECT FROM reversal r WHERE r.source_id = t.source_id)
            ) b
            GROUP BY b.reverses, b.user_id
        )
        SELECT c.id, c.seq, format('it reverses %%s, but %%s', c.reverses, c.reason)
        FROM (
            SELECT r.id, r.seq, r.reverses,
                   CASE WHEN o.reverses IS NOT NULL THEN 'that is a reversal itself'
                        WHEN o.user_id <> r.user_id THEN format('that is of user %%s', o.user_id)
                        WHEN r.transaction_type
                             <> CASE WHEN o.transaction_type IN ('purchase', 'admin_grant') THEN 'admin_removal' ELSE 'admin_grant' END
                            THEN format('that is of type %%s', o.transaction_type)
                        WHEN b.amount > o.amount
                            THEN format('all reversals take back %%s of its %%s', trim_scale(b.amount), trim_scale(o.amount)) END AS reason
            FROM reversal r
            JOIN original o ON o.id = r.reverses
            JOIN taken_back b ON b.reverses = r.reverses AND b.user_id = r.user_id
            -- The import passes over what is in the ledger already.
            WHERE NOT EXISTS (SELECT FROM credits.credits_transactions t WHERE t.source_id = r.source_id)
        ) c
        WHERE c.reason IS NOT NULL
        $query$, query);
END
    $$;
COMMENT ON FUNCTION credits.unimportable_transactions(regclass) IS
    'Rows of a table that import_transactions would refuse, and why: what the ledger cannot keep exactly, ids, source_ids and '
    'seqs that occur more than once, and reversals that do not fit their original, which may be in the ledger. A row may be '
    'listed more than once. Errors: 22004 for NULL, 42703 and 42804 for a column that is missing or of another type, 42501 '
    'without SELECT on the table, and on the ledger if the table has a column reverses, or where row-level security would hide '
    'rows. Cost: a scan of the table, a sort or hash of it for each of the three that has no unique index, and two more scans if '
    'it has a column reverses.';

CREATE PROCEDURE credits.import_transactions(source regclass, chunk_size bigint DEFAULT 50000, announce boolean DEFAULT false)
    LANGUAGE plpgsql
    AS $$
DECLARE
    -- Types are looked up before the search_path is pinned: a name that is no keyword is qualified.
    query pg_catalog.text;
    -- The number of problems, and the first of them as text.
    problems bigint;
    problem pg_catalog.text;
    -- The highest seq of the source at the start, the number of rows up to it, and how many of these are imported.
    total bigint;
    last_seq bigint;
    done bigint;
    -- The chunk; from_seq is NULL when there is none left.
    from_seq bigint;
    to_seq bigint;
    chunk_rows bigint;
    inserted bigint;
    began pg_catalog.timestamptz;
    began_with bigint;
BEGIN
    -- A procedure that commits cannot have its search_path pinned: each of its transactions begins by doing so.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true), pg_catalog.set_config('row_security', 'off', true);
    IF source IS NULL OR announce IS NULL THEN
        RAISE EXCEPTION 'argument % must not be NULL', CASE WHEN source IS NULL THEN 'source' ELSE 'announce' END
            USING ERRCODE = 'null_value_not_allowed';
    ELSIF (chunk_size > 0) IS NOT TRUE THEN
        RAISE EXCEPTION 'argument chunk_size must be above 0, but is %', coalesce(chunk_size::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    query := credits.import_query(source);
    -- Raises 2D000 inside a transaction block, before anything is imported.
    COMMIT;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true), pg_catalog.set_config('row_security', 'off', true);

    RAISE NOTICE 'checking %', source;
    SELECT count(*),
           string_agg(format('id %s, seq %s: %s', u.id, u.seq, u.reason), E'\n' ORDER BY u.place) FILTER (WHERE u.place <= 20)
    INTO problems, problem
    FROM (SELECT r.*, row_number() OVER (ORDER BY r.seq, r.id) AS place FROM credits.unimportable_transactions(source) r) u;
    IF problems > 0 THEN
        RAISE EXCEPTION '% cannot be imported: % problems', source, problems
            USING ERRCODE = 'check_violation', DETAIL = problem,
                  HINT = format('Nothing was imported. SELECT * FROM credits.unimportable_transactions(%L) lists all problems; '
                                'correct the rows, or import from a view that does.', source);
    END IF;
    EXECUTE format('SELECT count(*), max(s.seq) FROM (%s) s', query) INTO total, last_seq;
    EXECUTE format($query$
        SELECT format('seq %%s is source_id "%%s" in the source and "%%s" in the ledger', s.seq, s.source_id, t.source_id)
        FROM (%s) s
        JOIN credits.credits_transactions t ON t.seq = s.seq AND t.seq >= '-9223372036854775808'
        WHERE t.source_id <> s.source_id
        LIMIT 1
        $query$, query) INTO problem;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'seqs of % are taken by other transactions: %', source, problem
            USING ERRCODE = 'unique_violation', HINT = 'Import from a view that adds a constant to seq.';
    END IF;
    EXECUTE format($query$
        SELECT s.seq
        FROM (%s) s
        LEFT JOIN credits.credits_transactions t
          ON t.seq = s.seq AND t.seq >= '-9223372036854775808' AND t.source_id = s.source_id
        WHERE t.seq IS NULL
        ORDER BY s.seq LIMIT 1
        $query$, query) INTO from_seq;
    EXECUTE format('SELECT count(*) FROM (%s) s WHERE s.seq < $1', query) INTO done USING from_seq;
    IF total > chunk_size
       AND EXISTS (SELECT FROM pg_class c WHERE c.oid = source AND c.relkind IN ('r', 'p', 'm'))
       AND NOT EXISTS (SELECT FROM pg_index i
                       JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                       WHERE i.indrelid = source AND a.attname = 'seq' AND i.indisvalid AND i.indpred IS NULL) THEN
        RAISE WARNING '% has no index that begins with seq: each chunk reads the whole table', source
            USING HINT = format('CREATE INDEX ON %s (seq);', source);
    END IF;
    -- Transactions that are recorded meanwhile get higher numbers than all that is imported.
    IF from_seq IS NOT NULL THEN
        PERFORM credits.advance_seq(last_seq);
    END IF;
    began := clock_timestamp();
    began_with := done;

    WHILE from_seq IS NOT NULL LOOP
        IF NOT announce THEN
            -- The settings exist once the library is loaded.
            PERFORM credits.get_user_balance('00000000-0000-0000-0000-000000000000');
            BEGIN
                PERFORM set_config('credits_ledger.config_channel', '', true),
                        set_config('credits_ledger.crossing_channel', '', true),
                        set_config('credits_ledger.cap_channel', '', true);
            EXCEPTION WHEN insufficient_privilege THEN
                RAISE EXCEPTION '%', SQLERRM
                    USING ERRCODE = 'insufficient_privilege',
                          HINT = 'Only who may set the channels can import in silence. With announce => true, crossings and spend '
                                 'caps are announced as the chunks make them.';
            END;
        END IF;
        EXECUTE format($query$
            SELECT max(c.seq), count(*)
            FROM (SELECT s.seq FROM (%s) s WHERE s.seq >= $1 AND s.seq <= $2 ORDER BY s.seq LIMIT $3) c
            $query$, query) INTO to_seq, chunk_rows USING from_seq, last_seq, chunk_size;
        EXECUTE format($query$
            INSERT INTO credits.credits_transactions
                (id, user_id, transaction_type, amount, source_id, description, fusillade_batch_id, api_key_id, created_at, seq,
                 category, metadata, reverses)
            OVERRIDING SYSTEM VALUE
            SELECT s.* FROM (%s) s WHERE s.seq >= $1 AND s.seq <= $2 ORDER BY s.seq
            ON CONFLICT (source_id) DO NOTHING
            $query$, query) USING from_seq, to_seq;
        GET DIAGNOSTICS inserted = ROW_COUNT;
        IF inserted < chunk_rows THEN
            EXECUTE format($query$
                SELECT format('source_id "%%s" is taken by another transaction: the source has %%s of %%s for user %%s, stored is '
                              '%%s of %%s for user %%s',
                              s.source_id, s.transaction_type, s.amount, s.user_id, t.transaction_type, t.amount, t.user_id)
                FROM (%s) s
                JOIN credits.credits_transactions t ON t.source_id = s.source_id
                WHERE s.seq >= $1 AND s.seq <= $2
                  AND (t.user_id, t.transaction_type, t.amount) <> (s.user_id, s.transaction_type, s.amount)
                ORDER BY s.seq LIMIT 1
                $query$, query) INTO problem USING from_seq, to_seq;
            IF problem IS NOT NULL THEN
                RAISE EXCEPTION '%', problem
                    USING ERRCODE = 'unique_violation',
                          HINT = format('The rows before seq %s are imported, none from there on. Import the rest from a view '
                                        'without this row, or with another source_id.', from_seq);
            END IF;
        END IF;
        done := done + chunk_rows;
        from_seq := CASE WHEN to_seq < last_seq THEN to_seq + 1 END;
        COMMIT;
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true), pg_catalog.set_config('row_security', 'off', true);
        RAISE NOTICE 'imported % of % rows, % rows/s', done, total,
            round((done - began_with) / greatest(EXTRACT(epoch FROM clock_timestamp() - began), 0.001));
    END LOOP;

    EXECUTE format($query$
        WITH source AS NOT MATERIALIZED (
            SELECT s.user_id, s.source_id,
                   CASE WHEN s.transaction_type IN ('purchase', 'admin_grant') THEN s.amount ELSE -s.amount END AS credits
            FROM (%s) s
            WHERE s.seq <= $1
        ),
        expected AS (
            SELECT s.user_id, sum(s.credits) AS credits, count(*) AS transactions FROM source s GROUP BY s.user_id
        ),
        imported AS (
            SELECT t.user_id, sum(t.credits) AS balance, sum(t.credits) FILTER (WHERE t.is_imported) AS credits,
                   count(*) FILTER (WHERE t.is_imported) AS transactions
            FROM (
                SELECT t.user_id, s.source_id IS NOT NULL AS is_imported,
                       CASE WHEN t.transaction_type IN ('purchase', 'admin_grant') THEN t.amount ELSE -t.amount END AS credits
                FROM credits.credits_transactions t
                LEFT JOIN source s ON s.source_id = t.source_id
            ) t
            GROUP BY t.user_id
        )
        SELECT count(*), string_agg(d.difference, E'\n') FILTER (WHERE d.place <= 20)
        FROM (
            SELECT row_number() OVER () AS place,
                   format('user %%s: the source has %%s rows that sum to %%s, the ledger %%s of them that sum to %%s; the balance '
                          'is %%s, all rows sum to %%s',
                          e.user_id, e.transactions, e.credits, coalesce(i.transactions, 0), coalesce(i.credits, 0),
                          credits.get_user_balance(e.user_id), coalesce(i.balance, 0)) AS difference
            FROM expected e
            LEFT JOIN imported i ON i.user_id = e.user_id
            WHERE (e.transactions, e.credits) IS DISTINCT FROM (i.transactions, i.credits)
               OR credits.get_user_balance(e.user_id) IS DISTINCT FROM i.balance
        ) d
        $query$, query) INTO problems, problem USING last_seq;
    IF problems > 0 THEN
        RAISE EXCEPTION 'the import of % is not complete: % users differ', source, problems
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = problem,
                  HINT = 'If the source was written to meanwhile, call it again: it takes over what is missing.';
    END IF;
    RAISE NOTICE '% rows of % are in the ledger, and every balance agrees', total, source;
END
    $$;
COMMENT ON PROCEDURE credits.import_transactions(regclass, bigint, boolean) IS
    'Copies the rows of a table or view with the ledger''s columns (transaction_type as text or enum; description, '
    'fusillade_batch_id, api_key_id, category, metadata and reverses may be missing, others are ignored) into the ledger, with their id, created_at and seq, in '
    'the order of seq; new transactions get higher seqs from the start. Checks every row before it imports any '
    '(unimportable_transactions), then commits chunk_size rows at a time with a NOTICE each, and in the end compares each user''s '
    'rows and balance with the source. Called again, it goes on where it stopped. A row whose source_id is in the ledger with the '
    'same user, type and amount is skipped; with others it stops the import: 23505, and its chunk is rolled back. Announces no '
    'crossing and no spend cap unless announce is true. Runs as the caller, who needs SELECT on the source, SELECT and INSERT on the ledger, '
    'EXECUTE on the functions of the schema and, unless announce is true, the right to set the channels. Errors '
    'besides: 23514 for rows that cannot be kept exactly, 42703 and 42804 for columns that do not fit, 55000 if a user differs in '
    'the end, 2D000 inside a transaction block, 22004, 22023, 42501.';
