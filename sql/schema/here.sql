-- Which accounts this ledger has, where it is one of many nodes: views ask.

CREATE FUNCTION credits.owned_buckets() RETURNS bit
    LANGUAGE c STABLE PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'owned_buckets';
COMMENT ON FUNCTION credits.owned_buckets() IS
    'Which buckets of accounts this node has in the snapshot of the statement: 1,024 bits, that of bucket 0 first. One that is about to leave is here, one that is arriving is not. '
    'For readers of all nodes, in one statement with what they read: whether each bucket was read once.';

CREATE FUNCTION credits.has_all_buckets() RETURNS boolean
    LANGUAGE c STABLE PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'has_all_buckets';
COMMENT ON FUNCTION credits.has_all_buckets() IS
    'Whether this ledger has all accounts in the snapshot of the statement, as one without a router has.';

CREATE FUNCTION credits.is_here(user_id uuid) RETURNS boolean
    LANGUAGE c STABLE PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'is_here';
COMMENT ON FUNCTION credits.is_here(uuid) IS
    'Whether this node has the account in the snapshot of the statement: not if its bucket has left and rows of it are kept, or is arriving. 22004 for NULL.';

-- The same for every row, so it is evaluated before the first one is read.
CREATE FUNCTION credits.require_class(modulus int, remainder int) RETURNS boolean
    LANGUAGE c STABLE PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'require_class';
COMMENT ON FUNCTION credits.require_class(int, int) IS
    'For the views of make_class_views: true if this node has all buckets of the class in the snapshot of the statement; raises LC003 otherwise. 22004, 22023 for what is no class.';
