-- What the package brings is there and works: a ledger from its first row to its last check. Further tests of the folder go on
-- with this database. The rest is tested in ../*.rs; this is for whoever packages the extension.
CREATE EXTENSION credits_ledger;

SELECT seq, transaction_type, amount
  FROM credits.create_transaction('5b2c6a1e-0d4f-4c55-9a37-6f1f0c1d2e3a', 'purchase', 10, 'invoice-1');
SELECT seq, transaction_type, amount
  FROM credits.create_transaction('5b2c6a1e-0d4f-4c55-9a37-6f1f0c1d2e3a', 'purchase', 10, 'invoice-1');
INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, fusillade_batch_id)
SELECT '5b2c6a1e-0d4f-4c55-9a37-6f1f0c1d2e3a', 'usage', 0.000123, 'request-' || n, 'bbbbbbbb-0000-4000-8000-000000000001'
  FROM generate_series(1, 1000) AS n;
COPY credits.credits_transactions (user_id, transaction_type, amount, source_id) FROM STDIN;
5b2c6a1e-0d4f-4c55-9a37-6f1f0c1d2e3b	admin_grant	1	grant-1
5b2c6a1e-0d4f-4c55-9a37-6f1f0c1d2e3b	usage	1.5	request-1001
\.

SELECT credits.get_user_balance('5b2c6a1e-0d4f-4c55-9a37-6f1f0c1d2e3a');
SELECT user_id, balance, is_positive FROM credits.balances ORDER BY user_id;
SELECT transaction_type, amount, batch_count
  FROM credits.list_transactions_with_batches('5b2c6a1e-0d4f-4c55-9a37-6f1f0c1d2e3a');

BEGIN;
INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
VALUES ('5b2c6a1e-0d4f-4c55-9a37-6f1f0c1d2e3a', 'usage', 9, 'request-1002');
SELECT credits.get_user_balance('5b2c6a1e-0d4f-4c55-9a37-6f1f0c1d2e3a');
ROLLBACK;
SELECT credits.get_user_balance('5b2c6a1e-0d4f-4c55-9a37-6f1f0c1d2e3a');

SELECT * FROM credits.verify_ledger();
SELECT * FROM credits.verify_installation();
