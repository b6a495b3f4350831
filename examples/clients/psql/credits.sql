-- A prepaid account, from its first purchase over holds and a refusal to zero, in psql:
--
--   psql -X -q -f credits.sql
--
-- PGHOST, PGUSER, PGDATABASE and the like say where. Any surprise ends psql with a status other than 0.
\set ON_ERROR_STOP on
\pset tuples_only on

-- A check that prints what it saw. Functions of pg_temp are gone with the session.
CREATE FUNCTION pg_temp.expect(what text, seen text, expected text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF seen IS DISTINCT FROM expected THEN
        RAISE EXCEPTION '%: expected %, saw %', what, expected, coalesce(nullif(seen, ''), 'nothing');
    END IF;
    RETURN what || ': ' || seen;
END
$$;

-- New ids, so that this can be run again and again.
SELECT gen_random_uuid() AS account, gen_random_uuid() AS batch \gset

LISTEN credits_balance_crossed;

-- A purchase. The source_id makes it safe to try again: the same one is recorded once.
SELECT transaction_type || ' of ' || amount || ' recorded' FROM credits.create_transaction(
    user_id => :'account', transaction_type => 'purchase', amount => 10, source_id => 'invoice-' || :'account');
SELECT transaction_type || ' of ' || amount || ' recorded' FROM credits.create_transaction(
    user_id => :'account', transaction_type => 'purchase', amount => 10, source_id => 'invoice-' || :'account');

-- With another amount it is refused: this is no retry.
\set ON_ERROR_STOP off
\set VERBOSITY sqlstate
SELECT FROM credits.create_transaction(
    user_id => :'account', transaction_type => 'purchase', amount => 11, source_id => 'invoice-' || :'account');
\set refused :SQLSTATE
\set VERBOSITY default
\set ON_ERROR_STOP on
SELECT pg_temp.expect('refused with', :'refused', '23505');

-- Usage is a plain INSERT. The first three requests are a batch.
INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, fusillade_batch_id)
VALUES (:'account', 'usage', 0.000123, 'request-1-' || :'account', :'batch'),
       (:'account', 'usage', 0.000123, 'request-2-' || :'account', :'batch'),
       (:'account', 'usage', 0.000123, 'request-3-' || :'account', :'batch'),
       (:'account', 'usage', 0.25, 'request-4-' || :'account', NULL);

SELECT credits.get_user_balance(:'account') AS balance \gset
SELECT pg_temp.expect('balance', :'balance', '9.749631');

-- The history, newest first, with the batch as one item. The next page: before_seq => the last seq of this one.
SELECT transaction_type, amount, description, batch_count
  FROM credits.list_transactions_with_batches(user_id => :'account', "limit" => 10);
SELECT pg_temp.expect('page', string_agg(transaction_type || ' ' || amount, ', ' ORDER BY seq DESC),
                      'usage 0.25, usage 0.000369, purchase 10')
  FROM credits.list_transactions_with_batches(user_id => :'account', "limit" => 10);

-- A limit: holds may take the account to zero and no further, as without this row. A threshold: below 5, somebody wants to know.
INSERT INTO credits.spending_limits (user_id, overdraft_limit, thresholds) VALUES (:'account', 0, ARRAY[5]);

-- A request that may cost 6 credits: they are held before it is served. Nobody else can spend them meanwhile.
SELECT 'held: ' || amount FROM credits.create_hold(
    user_id => :'account', amount => 6, source_id => 'request-5-' || :'account', expires_in => '10 minutes');
SELECT pg_temp.expect('available', credits.get_available_balance(:'account')::text, '3.749631');

-- Another such request is refused. The error comes from the call, or from COMMIT if others spend at the same time.
\set ON_ERROR_STOP off
\set VERBOSITY sqlstate
SELECT FROM credits.create_hold(user_id => :'account', amount => 6, source_id => 'request-6-' || :'account');
\set refused :SQLSTATE
\set VERBOSITY default
\set ON_ERROR_STOP on
SELECT pg_temp.expect('refused with', :'refused', 'LC001');

-- When the request is done, what it has cost is captured, and the rest of the hold is free again. This takes the balance below the threshold,
-- which the commit announces. psql prints notifications where it prints results: for this one statement, to a file that can be looked at.
\set heard `mktemp`
\o :heard
SELECT amount FROM credits.capture_hold(source_id => 'request-5-' || :'account', amount => 5.5);
\o
\set threshold `grep -F :'account' :'heard' | sed -n 's/.*"direction":"down","threshold":"\([0-9.]*\)".*/\1/p'; rm :'heard'`
SELECT pg_temp.expect('below the threshold', :'threshold', '5');
SELECT credits.get_available_balance(:'account') AS balance \gset
SELECT pg_temp.expect('available', :'balance', '4.249631');

-- Spending the rest takes the balance to zero, which the commit announces, too.
\set heard `mktemp`
\o :heard
INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
VALUES (:'account', 'usage', :balance, 'request-7-' || :'account');
\o
\set direction `grep -F :'account' :'heard' | sed -n 's/.*"direction":"\([a-z]*\)".*/\1/p'; rm :'heard'`
SELECT pg_temp.expect('crossing', :'direction', 'down');
SELECT pg_temp.expect('balance', credits.get_user_balance(:'account')::text, '0');
