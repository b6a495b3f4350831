-- For a node behind a router, after sql/roles.sql, and again after that: postgres_fdw names all columns of a row that it inserts. For those that a node makes itself
-- the router sends DEFAULT and can send nothing else, but a role must have INSERT on them. A client that reaches the node with such a role could choose a seq.

\set ON_ERROR_STOP on
BEGIN;
GRANT INSERT (seq, xact_id) ON credits.credits_transactions TO credits_writer;
GRANT INSERT (updated_at) ON credits.spending_limits TO credits_limiter;
COMMIT;
