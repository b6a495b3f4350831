#!/usr/bin/env bash
# An UPDATE leaves a stored generated column alone if no column that it is computed from is in the SET list. As soon as the table has any
# BEFORE ROW UPDATE trigger, even one that changes nothing, each UPDATE computes every stored generated column anew. So after the function
# behind such a column has been corrected with CREATE OR REPLACE, whether old rows get the new value at an UPDATE of something else depends on
# an unrelated trigger.
#
# Seen with Postgres 15.19. (The server cannot know which columns the trigger changes, and takes all for changed.)
set -euo pipefail
. "$(dirname "$0")/lib/server.sh"

start_server 15
sql <<'SQL'
CREATE FUNCTION label(number int) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT 'No. ' || number $$;
CREATE TABLE item (number int, label text GENERATED ALWAYS AS (label(number)) STORED, note text);
INSERT INTO item (number) VALUES (7);
CREATE OR REPLACE FUNCTION label(number int) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT '#' || number $$;
SQL
updated() { sql <<< "UPDATE item SET note = 'seen' RETURNING label"; }

expect "an UPDATE of note, without a trigger, gives the label:" "No. 7" "No. 7" "$(updated)"
sql <<'SQL'
CREATE FUNCTION change_nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER change_nothing BEFORE UPDATE ON item FOR EACH ROW EXECUTE FUNCTION change_nothing();
SQL
expect "the same with a BEFORE trigger that changes nothing:" "No. 7" "#7" "$(updated)"
