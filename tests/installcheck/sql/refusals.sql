-- What is refused, and why.
\set VERBOSITY terse
UPDATE credits.credits_transactions SET amount = 1;
DELETE FROM credits.credits_transactions;
TRUNCATE credits.credits_transactions;
SELECT FROM credits.create_transaction('5b2c6a1e-0d4f-4c55-9a37-6f1f0c1d2e3a', 'purchase', 20, 'invoice-1');
INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
VALUES ('5b2c6a1e-0d4f-4c55-9a37-6f1f0c1d2e3a', 'usage', -1, 'request-1003');
DROP EXTENSION credits_ledger;
