-- A role without grants may do nothing; dropped, the extension leaves the empty schema and nothing else.
\set VERBOSITY terse
CREATE ROLE regress_credits_ledger NOLOGIN;
SET ROLE regress_credits_ledger;
SELECT count(*) FROM credits.credits_transactions;
RESET ROLE;
GRANT USAGE ON SCHEMA credits TO regress_credits_ledger;
GRANT SELECT ON credits.credits_transactions TO regress_credits_ledger;
SET ROLE regress_credits_ledger;
SELECT count(*) FROM credits.credits_transactions;
INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
VALUES ('5b2c6a1e-0d4f-4c55-9a37-6f1f0c1d2e3a', 'usage', 1, 'request-1004');
RESET ROLE;

SET client_min_messages = warning;
SET credits_ledger.allow_drop = on;
DROP EXTENSION credits_ledger;
SELECT count(*) FROM pg_event_trigger WHERE evtname LIKE 'credits%';
SELECT count(*) FROM pg_class WHERE relname LIKE 'credits%';
DROP SCHEMA credits;
DROP ROLE regress_credits_ledger;
