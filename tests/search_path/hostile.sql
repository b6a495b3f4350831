-- Operators, functions, types and relations in the schema hostile, by the names of the server's own and of the ledger's, for
-- the types that the ledger is made of. Each fails as soon as it is run. The operators of mixed types fit better than any of
-- the server's.
CREATE FUNCTION hostile.boom() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hijacked'; END $$;
DO $$
DECLARE
    used constant oid[] := ARRAY['uuid', 'text', 'numeric', 'int8', 'int4', 'timestamptz', 'bool', 'xid8', '_xid8', '_uuid',
                                 '_text', 'pg_snapshot', 'interval', 'name']::regtype[];
    mixed constant oid[] := ARRAY['uuid', 'text', 'numeric', 'int8', 'int4', 'timestamptz', 'xid8', '_xid8']::regtype[];
    body constant text := ' LANGUAGE plpgsql AS ''BEGIN RAISE EXCEPTION ''''hijacked''''; END''';
    made int := 0;
    it record;
BEGIN
    FOR it IN
        SELECT oprname, oprleft AS l, oprright AS r, oprresult AS result FROM pg_operator
        WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprkind = 'b' AND ARRAY[oprleft, oprright, oprresult] <@ used
        UNION
        SELECT name, l, r, 'bool'::regtype FROM unnest(mixed) l, unnest(mixed) r, unnest(ARRAY['=', '<>', '<', '>', '<=', '>=']) name
    LOOP
        made := made + 1;
        EXECUTE format('CREATE FUNCTION hostile.op_%s(%s, %s) RETURNS %s', made, it.l::regtype, it.r::regtype, it.result::regtype)
                || body;
        EXECUTE format('CREATE OPERATOR hostile.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = hostile.op_%s)',
                       it.oprname, it.l::regtype, it.r::regtype, made);
    END LOOP;
    FOR it IN
        SELECT proname::text AS name, oidvectortypes(proargtypes) AS arguments, prorettype AS result FROM pg_proc
        WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind IN ('f', 'a') AND proargtypes::oid[] || prorettype <@ used
          AND provariadic = 0 AND NOT proretset AND proallargtypes IS NULL
        UNION VALUES ('unnest', 'xid8[]', 'xid8'::regtype::oid), ('unnest', 'uuid[]', 'uuid'::regtype), ('unnest', 'text[]', 'text'::regtype),
                     ('count', 'uuid', 'int8'::regtype), ('count', 'int8', 'int8'::regtype),
                     ('format', 'text, numeric, numeric', 'text'::regtype), ('format', 'text, uuid, xid8', 'text'::regtype),
                     ('format', 'text, text, numeric, uuid', 'text'::regtype)
    LOOP
        made := made + 1;
        EXECUTE format('CREATE FUNCTION hostile.%I(%s) RETURNS %s', it.name, it.arguments, it.result::regtype) || body;
    END LOOP;
    ASSERT made > 1000, made;
    FOR it IN SELECT unnest(ARRAY['uuid', 'text', 'xid8', 'numeric', 'int8', 'timestamptz']) AS name LOOP
        EXECUTE format('CREATE DOMAIN hostile.%I AS pg_catalog.%1$I CHECK (hostile.boom())', it.name);
    END LOOP;
    FOR it IN
        SELECT relname FROM pg_class WHERE relnamespace = 'credits'::regnamespace AND relkind IN ('r', 'v')
        UNION VALUES ('http_analytics'), ('pg_extension'), ('pg_class')
    LOOP
        EXECUTE format('CREATE VIEW hostile.%I AS
                        SELECT 1 AS id, pg_catalog.uuid %L AS fusillade_batch_id, NULL::pg_catalog.text AS request_origin,
                               NULL::pg_catalog.text AS batch_request_source, NULL::pg_catalog.text AS batch_sla
                        WHERE hostile.boom()', it.relname, '00000000-0000-0000-0000-000000000000');
    END LOOP;
END $$
