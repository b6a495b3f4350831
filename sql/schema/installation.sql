-- Names without a schema are not looked up in the schema credits: ledger.sql says why.
SET LOCAL search_path = pg_catalog, pg_temp;

-- Whether tables, indexes, triggers and what guards them are as this version made them. What is expected is written out, for people
-- to read and to compare with the other files; a definition is in the words of the server's own functions, the same on all majors.
CREATE FUNCTION credits.verify_installation()
    RETURNS TABLE (check_name text, object text, detail text)
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
    AS $$
        WITH expected (check_name, relation, name, definition) AS (VALUES
            ('relation', 'credits_transactions', '', 'table, dumped of accounts that are here'),
            ('column', 'credits_transactions', 'id', 'uuid NOT NULL DEFAULT credits.uuid_v7()'),
            ('column', 'credits_transactions', 'user_id', 'uuid NOT NULL'),
            ('column', 'credits_transactions', 'transaction_type', 'text NOT NULL'),
            ('column', 'credits_transactions', 'amount', 'numeric NOT NULL'),
            ('column', 'credits_transactions', 'source_id', 'text NOT NULL'),
            ('column', 'credits_transactions', 'description', 'text'),
            ('column', 'credits_transactions', 'fusillade_batch_id', 'uuid'),
            ('column', 'credits_transactions', 'api_key_id', 'uuid'),
            ('column', 'credits_transactions', 'created_at', 'timestamp with time zone NOT NULL DEFAULT clock_timestamp()'),
            ('column', 'credits_transactions', 'seq', 'bigint NOT NULL GENERATED ALWAYS AS IDENTITY'),
            ('column', 'credits_transactions', 'xact_id', 'xid8 NOT NULL GENERATED ALWAYS AS credits.current_xact_id(seq)'),
            ('column', 'credits_transactions', 'category', 'text'),
            ('column', 'credits_transactions', 'metadata', 'jsonb'),
            ('column', 'credits_transactions', 'reverses', 'uuid'),
            ('constraint', 'credits_transactions', 'amount_is_positive_and_exact', 'CHECK (credits.is_amount(amount))'),
            ('constraint', 'credits_transactions', 'batch_is_usage', 'CHECK (credits.may_have_batch(transaction_type, fusillade_batch_id))'),
            ('constraint', 'credits_transactions', 'credits_transactions_pkey', 'PRIMARY KEY (id)'),
            ('constraint', 'credits_transactions', 'credits_transactions_source_id_key', 'UNIQUE (source_id)'),
            ('constraint', 'credits_transactions', 'transaction_type_is_known', 'CHECK (credits.is_transaction_type(transaction_type))'),
            ('index', 'credits_transactions', 'credits_transactions_auto_topup_idx', 'btree (user_id, created_at) WHERE starts_with(source_id, ''auto_topup_''::text)'),
            ('index', 'credits_transactions', 'credits_transactions_batched_idx', 'btree (user_id, seq) WHERE (fusillade_batch_id IS NOT NULL)'),
            ('index', 'credits_transactions', 'credits_transactions_created_idx', 'brin (created_at)'),
            ('index', 'credits_transactions', 'credits_transactions_delta_idx', 'btree (user_id, xact_id)'),
            ('index', 'credits_transactions', 'credits_transactions_pkey', 'unique btree (id)'),
            ('index', 'credits_transactions', 'credits_transactions_reverses_idx', 'btree (reverses) WHERE (reverses IS NOT NULL)'),
            ('index', 'credits_transactions', 'credits_transactions_seq_idx', 'unique btree (seq) WHERE (seq >= ''-9223372036854775808''::bigint)'),
            ('index', 'credits_transactions', 'credits_transactions_single_idx', 'btree (user_id, seq) WHERE (fusillade_batch_id IS NULL)'),
            ('index', 'credits_transactions', 'credits_transactions_source_id_key', 'unique btree (source_id)'),
            ('index', 'credits_transactions', 'credits_transactions_stamp_idx', 'brin (xact_id credits.xid8_minmax_ops)'),
            ('index', 'credits_transactions', 'credits_transactions_user_created_idx', 'btree (user_id, ((created_at)::timestamp(0) with time zone))'),
            ('trigger', 'credits_transactions', 'append_only', 'BEFORE DELETE OR UPDATE OR TRUNCATE FOR EACH STATEMENT EXECUTE FUNCTION credits.refuse_change(), always'),
            ('trigger', 'credits_transactions', 'append_only_applied', 'BEFORE DELETE OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.refuse_change(), always'),
            ('trigger', 'credits_transactions', 'note_transaction', 'AFTER INSERT FOR EACH ROW EXECUTE FUNCTION credits.note_transaction(), always'),
            ('relation', 'spending_limits', '', 'table, dumped of accounts that are here'),
            ('column', 'spending_limits', 'user_id', 'uuid NOT NULL'),
            ('column', 'spending_limits', 'overdraft_limit', 'numeric DEFAULT 0'),
            ('column', 'spending_limits', 'thresholds', 'numeric[] NOT NULL DEFAULT ''{}''::numeric[]'),
            ('column', 'spending_limits', 'updated_at', 'timestamp with time zone NOT NULL DEFAULT clock_timestamp()'),
            ('constraint', 'spending_limits', 'overdraft_limit_is_exact',
             'CHECK (((overdraft_limit >= (0)::numeric) AND (overdraft_limit < (''10000000000000''::bigint)::numeric) AND (min_scale(overdraft_limit) <= 15)))'),
            ('constraint', 'spending_limits', 'spending_limits_pkey', 'PRIMARY KEY (user_id)'),
            ('constraint', 'spending_limits', 'thresholds_are_distinct_balances', 'CHECK (credits.are_thresholds(thresholds))'),
            ('index', 'spending_limits', 'spending_limits_bucket_idx', 'btree (credits.bucket_of(user_id))'),
            ('index', 'spending_limits', 'spending_limits_pkey', 'unique btree (user_id)'),
            ('trigger', 'spending_limits', 'note_all_limits', 'BEFORE TRUNCATE FOR EACH STATEMENT EXECUTE FUNCTION credits.note_limits(), always'),
            ('trigger', 'spending_limits', 'note_limits', 'AFTER INSERT OR DELETE OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.note_limits(), always'),
            ('trigger', 'spending_limits', 'set_updated_at', 'BEFORE UPDATE FOR EACH ROW EXECUTE FUNCTION credits.set_updated_at(), not in replication'),
            ('relation', 'spend_caps', '', 'table, dumped of accounts that are here'),
            ('column', 'spend_caps', 'id', 'uuid NOT NULL DEFAULT gen_random_uuid()'),
            ('column', 'spend_caps', 'user_id', 'uuid NOT NULL'),
            ('column', 'spend_caps', 'api_key_ids', 'uuid[]'),
            ('column', 'spend_caps', 'period', 'text'),
            ('column', 'spend_caps', 'amount', 'numeric NOT NULL'),
            ('column', 'spend_caps', 'since', 'timestamp with time zone NOT NULL DEFAULT now()'),
            ('column', 'spend_caps', 'is_enforced', 'boolean NOT NULL DEFAULT false'),
            ('constraint', 'spend_caps', 'amount_is_positive_and_exact', 'CHECK (credits.is_amount(amount))'),
            ('constraint', 'spend_caps', 'api_key_ids_has_keys',
             'CHECK ( CASE WHEN (api_key_ids IS NULL) THEN true WHEN (array_ndims(api_key_ids) = 1) THEN (array_position(api_key_ids, NULL::uuid) IS NULL) ELSE false END)'),
            ('constraint', 'spend_caps', 'period_is_known', 'CHECK ((period = ANY (ARRAY[''daily''::text, ''weekly''::text, ''monthly''::text])))'),
            ('constraint', 'spend_caps', 'spend_caps_pkey', 'PRIMARY KEY (id)'),
            ('index', 'spend_caps', 'spend_caps_bucket_idx', 'btree (credits.bucket_of(user_id))'),
            ('index', 'spend_caps', 'spend_caps_pkey', 'unique btree (id)'),
            ('index', 'spend_caps', 'spend_caps_user_idx', 'btree (user_id)'),
            ('trigger', 'spend_caps', 'note_all_caps', 'BEFORE TRUNCATE FOR EACH STATEMENT EXECUTE FUNCTION credits.note_caps(), always'),
            ('trigger', 'spend_caps', 'note_caps', 'AFTER INSERT OR DELETE OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.note_caps(), always'),
            ('relation', 'holds', '', 'table, dumped of accounts that are here'),
            ('column', 'holds', 'source_id', 'text NOT NULL'),
            ('column', 'holds', 'user_id', 'uuid NOT NULL'),
            ('column', 'holds', 'amount', 'numeric NOT NULL'),
            ('column', 'holds', 'description', 'text'),
            ('column', 'holds', 'fusillade_batch_id', 'uuid'),
            ('column', 'holds', 'api_key_id', 'uuid'),
            ('column', 'holds', 'category', 'text'),
            ('column', 'holds', 'metadata', 'jsonb'),
            ('column', 'holds', 'created_at', 'timestamp with time zone NOT NULL DEFAULT clock_timestamp()'),
            ('column', 'holds', 'expires_at', 'timestamp with time zone NOT NULL'),
            ('constraint', 'holds', 'amount_is_positive_and_exact', 'CHECK (credits.is_amount(amount))'),
            ('constraint', 'holds', 'holds_pkey', 'PRIMARY KEY (source_id)'),
            ('index', 'holds', 'holds_pkey', 'unique btree (source_id)'),
            ('index', 'holds', 'holds_user_idx', 'btree (user_id, expires_at)'),
            ('trigger', 'holds', 'never_truncated', 'BEFORE TRUNCATE FOR EACH STATEMENT EXECUTE FUNCTION credits.refuse_hold_change(), always'),
            ('trigger', 'holds', 'note_hold', 'AFTER INSERT OR DELETE OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.note_hold(), always'),
            ('trigger', 'holds', 'only_extended', 'AFTER UPDATE FOR EACH ROW EXECUTE FUNCTION credits.refuse_hold_change(), always'),
            ('relation', 'user_balance_checkpoints', '', 'table, row-level security'),
            ('column', 'user_balance_checkpoints', 'user_id', 'uuid NOT NULL'),
            ('column', 'user_balance_checkpoints', 'checkpoint_seq', 'bigint NOT NULL'),
            ('column', 'user_balance_checkpoints', 'balance', 'numeric NOT NULL'),
            ('column', 'user_balance_checkpoints', 'updated_at', 'timestamp with time zone NOT NULL'),
            ('column', 'user_balance_checkpoints', 'transaction_count', 'bigint NOT NULL'),
            ('column', 'user_balance_checkpoints', 'watermark', 'xid8 NOT NULL'),
            ('column', 'user_balance_checkpoints', 'stragglers', 'xid8[] NOT NULL'),
            ('column', 'user_balance_checkpoints', 'is_positive', 'boolean NOT NULL'),
            ('column', 'user_balance_checkpoints', 'crossed_at', 'timestamp with time zone'),
            ('column', 'user_balance_checkpoints', 'overdraft_limit', 'numeric'),
            ('column', 'user_balance_checkpoints', 'thresholds', 'numeric[]'),
            ('column', 'user_balance_checkpoints', 'thresholds_below', 'smallint'),
            ('column', 'user_balance_checkpoints', 'thresholds_crossed_at', 'timestamp with time zone[]'),
            ('column', 'user_balance_checkpoints', 'has_days', 'boolean'),
            ('column', 'user_balance_checkpoints', 'cap_ids', 'uuid[]'),
            ('column', 'user_balance_checkpoints', 'caps_reached_until', 'timestamp with time zone[]'),
            ('constraint', 'user_balance_checkpoints', 'user_balance_checkpoints_pkey', 'PRIMARY KEY (user_id)'),
            ('index', 'user_balance_checkpoints', 'user_balance_checkpoints_pkey', 'unique btree (user_id)'),
            ('trigger', 'user_balance_checkpoints', 'announce_change', 'AFTER INSERT OR DELETE OR UPDATE OR TRUNCATE FOR EACH STATEMENT EXECUTE FUNCTION credits.announce_change(), always'),
            ('trigger', 'user_balance_checkpoints', 'keep_all_announced', 'BEFORE TRUNCATE FOR EACH STATEMENT EXECUTE FUNCTION credits.keep_announced(), always'),
            ('trigger', 'user_balance_checkpoints', 'keep_announced', 'AFTER DELETE OR UPDATE OF user_id FOR EACH ROW EXECUTE FUNCTION credits.keep_announced(), always'),
            ('trigger', 'user_balance_checkpoints', 'leave_out_replicated', 'BEFORE INSERT OR DELETE OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.leave_out(), in replication only'),
            ('relation', 'batch_aggregates', '', 'table, row-level security'),
            ('column', 'batch_aggregates', 'fusillade_batch_id', 'uuid NOT NULL STATISTICS 0'),
            ('column', 'batch_aggregates', 'user_id', 'uuid NOT NULL STATISTICS 0'),
            ('column', 'batch_aggregates', 'total_amount', 'numeric NOT NULL STATISTICS 0'),
            ('column', 'batch_aggregates', 'transaction_count', 'bigint NOT NULL STATISTICS 0'),
            ('column', 'batch_aggregates', 'max_seq', 'bigint NOT NULL STATISTICS 0'),
            ('column', 'batch_aggregates', 'created_at', 'timestamp with time zone NOT NULL STATISTICS 0'),
            ('column', 'batch_aggregates', 'updated_at', 'timestamp with time zone NOT NULL STATISTICS 0'),
            ('constraint', 'batch_aggregates', 'batch_aggregates_pkey', 'PRIMARY KEY (user_id, fusillade_batch_id)'),
            ('index', 'batch_aggregates', 'batch_aggregates_pkey', 'unique btree (user_id, fusillade_batch_id)'),
            ('index', 'batch_aggregates', 'batch_aggregates_user_seq_idx', 'btree (user_id, max_seq, created_at)'),
            ('trigger', 'batch_aggregates', 'leave_out_replicated', 'BEFORE INSERT OR DELETE OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.leave_out(), in replication only'),
            ('relation', 'daily_totals', '', 'table, row-level security'),
            ('column', 'daily_totals', 'user_id', 'uuid NOT NULL'),
            ('column', 'daily_totals', 'day', 'date NOT NULL'),
            ('column', 'daily_totals', 'category', 'text'),
            ('column', 'daily_totals', 'api_key_id', 'uuid'),
            ('column', 'daily_totals', 'transaction_type', 'text NOT NULL'),
            ('column', 'daily_totals', 'total_amount', 'numeric NOT NULL'),
            ('column', 'daily_totals', 'transaction_count', 'bigint NOT NULL'),
            ('index', 'daily_totals', 'daily_totals_user_day_idx', 'btree (user_id, day, transaction_type COLLATE "C", category COLLATE "C", api_key_id)'),
            ('trigger', 'daily_totals', 'leave_out_replicated', 'BEFORE INSERT OR DELETE OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.leave_out(), in replication only'),
            ('relation', 'checkpoint_changes', '', 'table'),
            ('column', 'checkpoint_changes', 'xact_id', 'xid8 NOT NULL'),
            ('column', 'checkpoint_changes', 'changed_at', 'timestamp with time zone NOT NULL'),
            ('trigger', 'checkpoint_changes', 'announce_change', 'AFTER INSERT OR DELETE OR UPDATE OR TRUNCATE FOR EACH STATEMENT EXECUTE FUNCTION credits.announce_change(), always'),
            ('trigger', 'checkpoint_changes', 'leave_out_replicated', 'BEFORE INSERT OR DELETE OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.leave_out(), in replication only'),
            ('relation', 'ledger_identity', '', 'table, row-level security'),
            ('column', 'ledger_identity', 'is_only', 'boolean NOT NULL DEFAULT true'),
            ('column', 'ledger_identity', 'ledger_id', 'uuid NOT NULL DEFAULT gen_random_uuid()'),
            ('constraint', 'ledger_identity', 'ledger_identity_pkey', 'PRIMARY KEY (is_only)'),
            ('constraint', 'ledger_identity', 'there_is_one', 'CHECK (is_only)'),
            ('index', 'ledger_identity', 'ledger_identity_pkey', 'unique btree (is_only)'),
            ('trigger', 'ledger_identity', 'leave_out_replicated', 'BEFORE INSERT OR DELETE OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.leave_out(), in replication only'),
            ('relation', 'node', '', 'table, dumped'),
            ('column', 'node', 'is_only', 'boolean NOT NULL DEFAULT true'),
            ('column', 'node', 'node_number', 'integer NOT NULL'),
            ('constraint', 'node', 'node_pkey', 'PRIMARY KEY (is_only)'),
            ('constraint', 'node', 'there_are_1024', 'CHECK (((node_number >= 0) AND (node_number <= 1023)))'),
            ('constraint', 'node', 'there_is_one', 'CHECK (is_only)'),
            ('index', 'node', 'node_pkey', 'unique btree (is_only)'),
            ('trigger', 'node', 'leave_out_replicated', 'BEFORE INSERT OR DELETE OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.leave_out(), in replication only'),
            ('trigger', 'node', 'number_by_node', 'AFTER INSERT OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.number_by_node(), not in replication'),
            ('relation', 'bucket_states', '', 'table, dumped'),
            ('column', 'bucket_states', 'bucket', 'smallint NOT NULL'),
            ('column', 'bucket_states', 'copied_from', 'text'),
            ('column', 'bucket_states', 'copied_to', 'xid8'),
            ('column', 'bucket_states', 'handover', 'jsonb'),
            ('column', 'bucket_states', 'received', 'xid8'),
            ('column', 'bucket_states', 'state', 'text NOT NULL'),
            ('constraint', 'bucket_states', 'bucket_states_pkey', 'PRIMARY KEY (bucket)'),
            ('constraint', 'bucket_states', 'state_is_known', 'CHECK ((state = ANY (ARRAY[''elsewhere''::text, ''arriving''::text, ''moving''::text])))'),
            ('constraint', 'bucket_states', 'there_are_1024', 'CHECK (((bucket >= 0) AND (bucket <= 1023)))'),
            ('index', 'bucket_states', 'bucket_states_pkey', 'unique btree (bucket)'),
            ('trigger', 'bucket_states', 'announce_buckets', 'AFTER INSERT OR DELETE OR UPDATE OR TRUNCATE FOR EACH STATEMENT EXECUTE FUNCTION credits.announce_buckets(), always'),
            ('trigger', 'bucket_states', 'leave_out_replicated', 'BEFORE INSERT OR DELETE OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.leave_out(), in replication only'),
            ('relation', 'copies', '', 'table'),
            ('column', 'copies', 'xact_id', 'xid8 NOT NULL'),
            ('constraint', 'copies', 'copies_pkey', 'PRIMARY KEY (xact_id)'),
            ('index', 'copies', 'copies_pkey', 'unique btree (xact_id)'),
            ('trigger', 'copies', 'leave_out_replicated', 'BEFORE INSERT OR DELETE OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.leave_out(), in replication only'),
            ('relation', 'purged_buckets', '', 'table, dumped'),
            ('column', 'purged_buckets', 'balance', 'numeric NOT NULL'),
            ('column', 'purged_buckets', 'bucket', 'smallint NOT NULL'),
            ('column', 'purged_buckets', 'digest', 'text NOT NULL'),
            ('column', 'purged_buckets', 'purged_at', 'timestamp with time zone NOT NULL'),
            ('column', 'purged_buckets', 'transaction_count', 'bigint NOT NULL'),
            ('constraint', 'purged_buckets', 'purged_buckets_pkey', 'PRIMARY KEY (bucket, purged_at)'),
            ('index', 'purged_buckets', 'purged_buckets_pkey', 'unique btree (bucket, purged_at)'),
            ('trigger', 'purged_buckets', 'leave_out_replicated', 'BEFORE INSERT OR DELETE OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.leave_out(), in replication only'),
            ('relation', 'taken_buckets', '', 'table, dumped'),
            ('column', 'taken_buckets', 'bucket', 'smallint NOT NULL'),
            ('column', 'taken_buckets', 'seq', 'bigint NOT NULL'),
            ('constraint', 'taken_buckets', 'taken_buckets_pkey', 'PRIMARY KEY (bucket)'),
            ('index', 'taken_buckets', 'taken_buckets_pkey', 'unique btree (bucket)'),
            ('trigger', 'taken_buckets', 'leave_out_replicated', 'BEFORE INSERT OR DELETE OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.leave_out(), in replication only'),
            ('relation', 'dumped_row_security', '', 'table, dumped WHERE false UNION ALL SELECT * FROM credits.row_security()'),
            ('column', 'dumped_row_security', 'table_name', 'text NOT NULL'),
            ('column', 'dumped_row_security', 'kind', 'text NOT NULL'),
            ('column', 'dumped_row_security', 'policy', 'text NOT NULL'),
            ('column', 'dumped_row_security', 'is_permissive', 'boolean'),
            ('column', 'dumped_row_security', 'command', 'text'),
            ('column', 'dumped_row_security', 'roles', 'text[]'),
            ('column', 'dumped_row_security', 'using_expression', 'text'),
            ('column', 'dumped_row_security', 'check_expression', 'text'),
            ('column', 'dumped_row_security', 'problem', 'text'),
            ('constraint', 'dumped_row_security', 'dumped_row_security_pkey', 'PRIMARY KEY (table_name, kind, policy)'),
            ('constraint', 'dumped_row_security', 'kind_is_known',
             'CHECK ( CASE kind WHEN ''enable''::text THEN (policy = ''''::text) WHEN ''force''::text THEN (policy = ''''::text)'
             ' WHEN ''policy''::text THEN ((policy <> ''''::text) AND (is_permissive IS NOT NULL) AND (command IS NOT NULL)'
             ' AND (command = ANY (ARRAY[''ALL''::text, ''SELECT''::text, ''INSERT''::text, ''UPDATE''::text, ''DELETE''::text]))) ELSE false END)'),
            ('index', 'dumped_row_security', 'dumped_row_security_pkey', 'unique btree (table_name, kind, policy)'),
            ('trigger', 'dumped_row_security', 'make_row_security', 'BEFORE INSERT FOR EACH ROW EXECUTE FUNCTION credits.make_row_security(), always'),
            ('trigger', 'dumped_row_security', 'owner_only', 'BEFORE INSERT OR DELETE OR UPDATE OR TRUNCATE FOR EACH STATEMENT EXECUTE FUNCTION credits.refuse_others(), always'),
            ('relation', 'credits_transactions_seq_seq', '', 'sequence, bigint from 1 to 9223372036854775807 by 1, cache 1, owned by column seq of table credits.credits_transactions, dumped'),
            ('relation', 'checkpoints', '', 'view, security barrier'),
            ('relation', 'folded_batches', '', 'view'),
            ('relation', 'folded_days', '', 'view, security barrier'),
            ('relation', 'users_without_checkpoint', '', 'view, security barrier'),
            ('relation', 'uncovered_transactions', '', 'view, security barrier'),
            ('relation', 'balances', '', 'view, security barrier'),
            ('relation', 'thresholds', '', 'view, security barrier'),
            ('relation', 'spend_cap_states', '', 'view, security barrier'),
            ('relation', 'batches', '', 'view, security barrier'),
            ('relation', 'checkpoint_lag', '', 'view, security barrier'),
            ('relation', 'hold_counts', '', 'view, security barrier'),
            ('relation', 'stragglers', '', 'view, security barrier'),
            ('event trigger', '', 'credits_ledger_guard', 'ddl_command_start credits.guard_ledger(), always'),
            ('event trigger', '', 'credits_ledger_guard_end', 'ddl_command_end credits.guard_ledger(), always'),
            ('event trigger', '', 'credits_ledger_guard_rewrite', 'table_rewrite credits.guard_ledger(), always')
        ),
        relations AS (
            SELECT c.oid, c.relname, c.relkind, c.relpersistence, c.relam, c.relrowsecurity, c.relforcerowsecurity, c.reloptions,
                   EXISTS (SELECT FROM pg_depend d JOIN pg_extension x ON x.oid = d.refobjid
                           WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_extension'::regclass
                             AND d.deptype = 'e' AND x.extname = 'credits_ledger') AS is_member
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = 'credits' AND c.relkind NOT IN ('i', 'I', 'c', 't')
        ),
        found (check_name, relation, name, definition) AS (
            SELECT 'relation', r.relname::text, '',
                   concat_ws(', ',
                       concat_ws(' ', CASE r.relpersistence WHEN 'u' THEN 'unlogged' WHEN 't' THEN 'temporary' END,
                                 CASE r.relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' WHEN 'S' THEN 'sequence'
                                                ELSE format('relation of kind %s', r.relkind) END),
                       (SELECT 'access method ' || a.amname FROM pg_am a WHERE a.oid = r.relam AND a.amname <> 'heap'),
                       -- Row-level security of the tables that are dumped is the users' choice.
                       CASE WHEN r.relname NOT IN ('credits_transactions', 'spending_limits', 'spend_caps', 'holds') AND r.relrowsecurity THEN 'row-level security' END,
                       CASE WHEN r.relname NOT IN ('credits_transactions', 'spending_limits', 'spend_caps', 'holds') AND r.relforcerowsecurity THEN 'forced' END,
                       CASE WHEN r.relkind = 'v' AND r.reloptions @> '{security_barrier=true}' THEN 'security barrier' END,
                       CASE WHEN r.relkind = 'v' AND r.reloptions @> '{security_invoker=true}' THEN 'security invoker' END,
                       (SELECT format('%s from %s to %s by %s, cache %s%s', format_type(s.seqtypid, NULL), s.seqmin, s.seqmax,
                                      -- One of many nodes counts by 1,024: set_node_number.
                                      CASE WHEN s.seqincrement = 1024 THEN 1 ELSE s.seqincrement END,
                                      s.seqcache, CASE WHEN s.seqcycle THEN ', cycle' END)
                        FROM pg_sequence s WHERE s.seqrelid = r.oid),
                       (SELECT 'owned by ' || pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid)
                        FROM pg_depend d
                        WHERE r.relkind = 'S' AND d.classid = 'pg_class'::regclass AND d.objid = r.oid AND d.deptype IN ('a', 'i')
                          AND d.refclassid = 'pg_class'::regclass),
                       (SELECT 'inherits from ' || string_agg(i.inhparent::regclass::text, ', ') FROM pg_inherits i WHERE i.inhrelid = r.oid),
                       (SELECT 'inherited by ' || string_agg(i.inhrelid::regclass::text, ', ') FROM pg_inherits i WHERE i.inhparent = r.oid),
                       CASE WHEN NOT r.is_member THEN 'not a member of the extension' END,
                       (SELECT concat_ws(' ', 'dumped',
                                         -- Accounts that are here: nodes.sql has the condition.
                                         CASE x.extcondition[d.place]
                                         WHEN 'WHERE (SELECT NOT EXISTS (SELECT FROM credits.bucket_states s WHERE s.state <> ''moving''))'
                                              ' OR credits.bucket_of(user_id) NOT IN (SELECT s.bucket FROM credits.bucket_states s WHERE s.state <> ''moving'')'
                                         THEN 'of accounts that are here' ELSE nullif(x.extcondition[d.place], '') END)
                        FROM pg_extension x CROSS JOIN unnest(x.extconfig) WITH ORDINALITY AS d(oid, place)
                        WHERE x.extname = 'credits_ledger' AND d.oid = r.oid))
            FROM relations r
            WHERE r.is_member OR r.relname IN (SELECT e.relation FROM expected e)
            UNION ALL
            SELECT 'column', r.relname, a.attname,
                   concat(format_type(a.atttypid, a.atttypmod),
                          (SELECT format(' COLLATE %s', l.collname) FROM pg_collation l
                           WHERE l.oid = a.attcollation AND l.collname <> 'default'),
                          CASE WHEN a.attnotnull THEN ' NOT NULL' END,
                          CASE a.attidentity WHEN 'a' THEN ' GENERATED ALWAYS AS IDENTITY'
                                             WHEN 'd' THEN ' GENERATED BY DEFAULT AS IDENTITY' END,
                          CASE WHEN a.attgenerated <> '' THEN ' GENERATED ALWAYS AS ' WHEN d.oid IS NOT NULL THEN ' DEFAULT ' END,
                          pg_get_expr(d.adbin, d.adrelid),
                          CASE WHEN a.attstattarget = 0 AND r.relname = 'batch_aggregates' THEN ' STATISTICS 0' END)
            FROM relations r
            JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
            LEFT JOIN pg_attrdef d ON d.adrelid = r.oid AND d.adnum = a.attnum
            WHERE r.relkind NOT IN ('v', 'S')
            UNION ALL
            -- NOT VALID is no difference: an update adds constraints that old rows were not checked for.
            SELECT 'constraint', r.relname, c.conname, regexp_replace(regexp_replace(pg_get_constraintdef(c.oid), ' NOT VALID$', ''), E'\\s+', ' ', 'g')
            FROM relations r JOIN pg_constraint c ON c.conrelid = r.oid
            WHERE c.contype NOT IN ('n', 't')
            UNION ALL
            SELECT 'index', r.relname, x.relname,
                   concat(CASE WHEN i.indisunique THEN 'unique ' END,
                          -- Storage settings are the owner's.
                          regexp_replace(substring(pg_get_indexdef(i.indexrelid) FROM ' USING (.*)'), E' WITH \\([^)]*\\)', ''),
                          CASE WHEN NOT i.indisvalid THEN ', not valid' WHEN NOT i.indisready THEN ', not ready' END)
            FROM relations r JOIN pg_index i ON i.indrelid = r.oid JOIN pg_class x ON x.oid = i.indexrelid
            UNION ALL
            SELECT 'trigger', r.relname, g.tgname,
                   concat(regexp_replace(substring(pg_get_triggerdef(g.oid) FROM ' ((BEFORE|AFTER|INSTEAD OF) .*)'), E' ON \\S+', ''),
                          CASE g.tgenabled WHEN 'A' THEN ', always' WHEN 'R' THEN ', in replication only' WHEN 'D' THEN ', disabled'
                                           ELSE ', not in replication' END)
            FROM relations r JOIN pg_trigger g ON g.tgrelid = r.oid
            WHERE NOT g.tgisinternal
            UNION ALL
            SELECT 'rule', r.relname, w.rulename, regexp_replace(pg_get_ruledef(w.oid), E'\\s+', ' ', 'g')
            FROM relations r JOIN pg_rewrite w ON w.ev_class = r.oid
            WHERE r.relkind <> 'v'
            UNION ALL
            SELECT 'policy', r.relname, p.polname, 'for others than the owner'
            FROM relations r JOIN pg_policy p ON p.polrelid = r.oid
            WHERE r.relname NOT IN ('credits_transactions', 'spending_limits', 'spend_caps', 'holds')
            UNION ALL
            SELECT 'event trigger', '', v.evtname,
                   concat(v.evtevent, (SELECT format(' (%s)', array_to_string(v.evttags, ', ')) WHERE v.evttags IS NOT NULL), ' ',
                          v.evtfoid::regprocedure,
                          CASE v.evtenabled WHEN 'A' THEN ', always' WHEN 'R' THEN ', in replication only' WHEN 'D' THEN ', disabled'
                                            ELSE ', not in replication' END)
            FROM pg_event_trigger v JOIN pg_proc p ON p.oid = v.evtfoid JOIN pg_namespace n ON n.oid = p.pronamespace
            WHERE n.nspname = 'credits'
        ),
        differing AS (
            SELECT check_name, relation, name, e.definition AS expected, f.definition AS found
            FROM expected e FULL JOIN found f USING (check_name, relation, name)
            WHERE e.definition IS DISTINCT FROM f.definition
        )
        -- An application's own index, constraint or trigger on a table that is dumped does no harm, nor do ids of its own, but a dump leaves it out.
        SELECT CASE WHEN d.expected IS NULL AND d.relation IN ('credits_transactions', 'spending_limits', 'spend_caps', 'holds') AND d.check_name IN ('constraint', 'index', 'trigger')
                      OR d.check_name = 'column' AND d.relation = 'credits_transactions' AND d.name = 'id' AND starts_with(d.found, 'uuid NOT NULL DEFAULT ')
                    THEN 'left out of dumps' ELSE d.check_name END,
               CASE WHEN d.relation = '' THEN d.name ELSE concat_ws('.', 'credits', d.relation, nullif(d.name, '')) END,
               CASE WHEN d.found IS NULL THEN 'is missing; it was: ' || d.expected
                    WHEN d.expected IS NULL THEN format('%s, is not of the extension: %s', d.check_name, d.found)
                    ELSE format('is: %s; was: %s', d.found, d.expected) END
        FROM differing d
        -- For a table that is missing, or is not the extension's, its columns, indexes and triggers are not listed as well.
        WHERE d.check_name IN ('relation', 'event trigger')
           OR d.relation IN (SELECT e.relation FROM expected e INTERSECT SELECT r.relname FROM relations r)
        UNION ALL
        SELECT 'event trigger', 'event_triggers', 'the setting is off: nothing guards the ledger'
        WHERE current_setting('event_triggers', true) = 'off'
        UNION ALL
        SELECT 'function', f.oid::regprocedure::text,
               CASE WHEN f.prosecdef THEN 'is SECURITY DEFINER' ELSE 'sets no search_path of its own' END
        FROM pg_proc f
        JOIN pg_namespace n ON n.oid = f.pronamespace
        JOIN pg_language l ON l.oid = f.prolang
        JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND d.deptype = 'e'
        JOIN pg_extension x ON d.refclassid = 'pg_extension'::regclass AND x.oid = d.refobjid AND x.extname = 'credits_ledger'
        WHERE n.nspname = 'credits'
          AND (f.prosecdef
               -- A procedure that commits cannot have a setting of its own; a body that was bound when it was created needs none.
               OR l.lanname <> 'c' AND f.prokind <> 'p' AND f.prosqlbody IS NULL
                  -- With quotes, where the extension was made under quote_all_identifiers.
                  AND NOT EXISTS (SELECT FROM unnest(f.proconfig) AS setting WHERE replace(setting, '"', '') = 'search_path=pg_catalog, pg_temp'))
        UNION ALL
        SELECT 'row security', concat_ws('.', 'credits', u.table_name, nullif(u.policy, '')), 'a restore has brought it and could not make it: ' || u.problem
        -- Without SELECT on the table, the function would raise an error.
        FROM unnest(CASE WHEN has_table_privilege('credits.dumped_row_security', 'SELECT')
                         THEN ARRAY(SELECT s FROM credits.row_security() s WHERE s.problem IS NOT NULL) END) u
        ORDER BY 1, 2
    $$;
COMMENT ON FUNCTION credits.verify_installation() IS
    'Compares tables, columns, constraints, indexes, triggers, sequences, views and event triggers with what this version makes, '
    'and lists what differs, and policies that a restore could not make; no rows is the good answer. ''left out of dumps'' names '
    'an index, constraint or trigger of an application''s own on the ledger, holds, limits or caps, and a default of its own for the ledger''s ids. Not compared: owners, privileges, storage and '
    'statistics settings, tablespaces, bodies of views and functions. Reads catalogs only.';

-- Back to the search_path of CREATE EXTENSION.
SET LOCAL search_path = credits, pg_temp;
