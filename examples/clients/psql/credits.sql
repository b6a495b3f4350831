-- A prepaid account, from its first purchase to zero, in psql:
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

-- Spending the rest takes the balance to zero, which the commit announces. psql prints notifications where it prints
-- results: for this one statement, to a file that can be looked at.
\set heard `mktemp`
\o :heard
INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
VALUES (:'account', 'usage', :balance, 'request-5-' || :'account');
\o
\set direction `grep -F :'account' :'heard' | sed -n 's/.*"direction":"\([a-z]*\)".*/\1/p'; rm :'heard'`
SELECT pg_temp.expect('crossing', :'direction', 'down');
SELECT pg_temp.expect('balance', credits.get_user_balance(:'account')::text, '0');
