-- PUBLIC may execute twelve functions:
-- - those that stamp a row, make its id and check what is written: they run as the role that writes
-- - the one that pg_dump calls, as the role that dumps
-- - the one that names an account's bucket, as the role that reads or writes through a router
-- - those that say which buckets are here, as whoever reads
REVOKE ALL ON ALL TABLES IN SCHEMA credits FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA credits FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA credits FROM PUBLIC;
REVOKE ALL ON SCHEMA credits FROM PUBLIC;
REVOKE ALL ON TYPE credits.credit_transaction, credits.transaction_with_category, credits.transaction_with_balance,
    credits.credit_hold, credits.recorded_transaction, credits.feed_item FROM PUBLIC;
GRANT EXECUTE ON FUNCTION credits.current_xact_id(bigint), credits.uuid_v7(), credits.is_amount(numeric),
    credits.is_transaction_type(text), credits.may_have_batch(text, uuid), credits.are_thresholds(numeric[]) TO PUBLIC;
GRANT EXECUTE ON FUNCTION credits.row_security(), credits.bucket_of(uuid), credits.owned_buckets(), credits.has_all_buckets(),
    credits.is_here(uuid), credits.require_class(int, int) TO PUBLIC;

-- Who watches the cluster watches the ledger: how far checkpoints are behind, how many holds there are and what settlement has done, and no amount.
GRANT USAGE ON SCHEMA credits TO pg_monitor;
GRANT SELECT ON credits.checkpoint_lag, credits.hold_counts, credits.stragglers, credits.users_without_checkpoint TO pg_monitor;
GRANT EXECUTE ON FUNCTION credits.settlement_statistics(), credits.verify_installation() TO pg_monitor;
