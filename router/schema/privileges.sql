-- router/roles.sql grants what clients need, let_in a way to the nodes. A role that may call a function of the schema credits needs EXECUTE on the one of the
-- same name in credits_routes, too: that is the one that goes to the node. What both use is for everybody who may use the schema.
REVOKE ALL ON ALL TABLES IN SCHEMA credits, credits_routes FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA credits, credits_routes FROM PUBLIC;
REVOKE ALL ON SCHEMA credits, credits_routes FROM PUBLIC;
REVOKE ALL ON TYPE credits.credit_transaction, credits.transaction_with_category, credits.transaction_with_balance, credits.credit_hold,
    credits.recorded_transaction, credits.feed_item FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    credits_routes.bucket, credits_routes.bucket_of_item, credits_routes.nodes, credits_routes.place_of_node, credits_routes.try_again,
    credits_routes.read_the_map_again,
    credits_routes.hinted_account, credits_routes.bucket_by_source, credits_routes.bucket_by_transaction,
    credits_routes.are_all, credits_routes.has_bucket, credits_routes.require_bucket, credits_routes.keep_bucket, credits_routes.are_on_many_nodes,
    credits_routes.accounts_by_source, credits_routes.accounts_by_transaction, credits_routes.with_ids, credits_routes.record_split, credits_routes.merge_feeds
    TO PUBLIC;
-- The default of a column is evaluated as the role that inserts.
GRANT EXECUTE ON FUNCTION credits.bucket_of(uuid), credits.uuid_v7() TO PUBLIC;

-- Who watches the cluster watches the nodes, as far as they let the role.
GRANT USAGE ON SCHEMA credits, credits_routes TO pg_monitor;
GRANT SELECT ON credits.nodes, credits.buckets, credits.moves, credits.checkpoint_lag, credits.hold_counts, credits.stragglers, credits.users_without_checkpoint
    TO pg_monitor;
GRANT EXECUTE ON FUNCTION credits.node_of, credits.settlement_statistics, credits.verify_installation, credits_routes.settlement_statistics,
    credits_routes.verify_installation, credits_routes.checkpoint_lag, credits_routes.hold_counts, credits_routes.stragglers,
    credits_routes.users_without_checkpoint
    TO pg_monitor;
