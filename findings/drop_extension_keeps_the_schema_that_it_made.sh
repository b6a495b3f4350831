#!/usr/bin/env bash
# CREATE EXTENSION makes the schema that the control file names, if there is none; DROP EXTENSION leaves it, with the grants on it. What the same
# script creates with CREATE SCHEMA itself is a member of the extension, and goes with it.
#
# A schema is not a member of the extension that is installed in it, since it may be there for others. That the command made it a moment
# ago makes no difference. So a package that is purged without a trace from the machine leaves one in each database, and a role that was
# granted USAGE cannot be dropped.
#
# Seen with Postgres 15.19 and 18.6.
set -euo pipefail
. "$(dirname "$0")/lib/server.sh"

start_server 15
folder=$("$work/postgres/bin/pg_config" --sharedir)/extension
printf '%s\n' "default_version = '1'" "schema = 'named_by_control'" "relocatable = false" > "$folder/mine.control"
echo "CREATE SCHEMA made_by_script;" > "$folder/mine--1.sql"
chmod a+r "$folder"/mine*
schemas() { sql <<< "SELECT coalesce(string_agg(nspname, ', ' ORDER BY nspname), 'none') FROM pg_namespace WHERE nspname ~ '_by_'"; }

sql <<< "CREATE EXTENSION mine; CREATE ROLE reader; GRANT USAGE ON SCHEMA named_by_control TO reader"
expect "with the extension:" "made_by_script, named_by_control" "made_by_script, named_by_control" "$(schemas)"
sql <<< "DROP EXTENSION mine"
expect "after DROP EXTENSION:" "none" "named_by_control" "$(schemas)"
expect "and the role:" "can be dropped" 'ERROR:  role "reader" cannot be dropped because some objects depend on it' "$(sql 2>&1 <<< "DROP ROLE reader" | head -n 1)"
