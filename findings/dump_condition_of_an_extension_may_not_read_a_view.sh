#!/usr/bin/env bash
# An extension may say which rows of its table pg_dump takes: the condition that it gives to pg_extension_config_dump is appended to the query.
# A condition that reads a view of the extension's own makes the whole dump fail: since its minor releases of 2024, pg_dump restricts views that
# are not the system's for its own session. A function in the same place, which can do as much and more, is let through.
#
# Seen with Postgres 15.19.
set -euo pipefail
. "$(dirname "$0")/lib/server.sh"

start_server 15
extension() {
  local folder=$work/postgres/share/extension
  echo "default_version = '1'" > "$folder/$1.control"
  cat > "$folder/$1--1.sql"
  chmod a+r "$folder/$1"*
  sql <<< "CREATE DATABASE $1"
  sql "$1" <<< "CREATE EXTENSION $1"
}
outcome() {
  if program pg_dump -h "$work" -U postgres "$1" > "$work/dump.sql" 2> "$work/errors"; then echo dumped; else
    grep -o 'access to non-system view "[a-z_]*" is restricted' "$work/errors"
  fi
}

extension by_view <<'SQL'
CREATE TABLE setting (name text);
CREATE VIEW wanted AS SELECT 'a'::text AS name;
SELECT pg_catalog.pg_extension_config_dump('setting', 'WHERE name IN (SELECT name FROM public.wanted)');
SQL
extension by_function <<'SQL'
CREATE TABLE setting (name text);
CREATE FUNCTION wanted() RETURNS SETOF text LANGUAGE sql STABLE AS $$ SELECT 'a'::text $$;
SELECT pg_catalog.pg_extension_config_dump('setting', 'WHERE name IN (SELECT public.wanted())');
SQL

expect "pg_dump with a condition that calls a function:" "dumped" "dumped" "$(outcome by_function)"
expect "pg_dump with a condition that reads a view:" "dumped" 'access to non-system view "wanted" is restricted' "$(outcome by_view)"
