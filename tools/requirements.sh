#!/usr/bin/env bash
# What `make build-release` needs of the machine.
#
#   requirements.sh [PG_CONFIG]    says what is missing, by the names of the packages that have it, and exits with 1; prints
#                                  the pg_config to use if nothing is: PG_CONFIG, or the one that PATH finds.
set -euo pipefail

pg_config=${1:-$(command -v pg_config || true)}
missing=()

# missing WHAT DEBIAN FEDORA
missing() {
  missing+=("$(printf '  %s\n    Debian, Ubuntu: %s\n    Fedora, RHEL:   %s' "$@")")
}

has() { command -v "$1" >/dev/null; }

if [ -z "$pg_config" ]; then
  missing "pg_config, of the server to install into: give its path as PG_CONFIG=..." "postgresql-server-dev-all" "postgresql-server-devel"
elif ! version=$("$pg_config" --version 2>/dev/null); then
  missing "pg_config: $pg_config cannot be run" "postgresql-server-dev-all" "postgresql-server-devel"
else
  major=$(sed -n 's/^PostgreSQL \([0-9]*\).*/\1/p' <<< "$version")
  if ! [[ $major =~ ^1[4-8]$ ]]; then
    printf 'credits_ledger cannot be built: %s is of %s, and the extension is for Postgres 14 to 18\n' "$pg_config" "$version" >&2
    exit 1
  fi
  headers=$("$pg_config" --includedir-server)
  [ -f "$headers/postgres.h" ] ||
    missing "the server's headers: $headers/postgres.h" "postgresql-server-dev-$major" "postgresql-server-devel, or postgresql$major-devel of PGDG"
fi
has cargo || missing "cargo, with Rust 1.95" "rustup, or https://rustup.rs" "rustup, or https://rustup.rs"
has cc || missing "a C compiler" "gcc libc6-dev" "gcc glibc-devel"
has clang || { has python3 && python3 -c 'import pip' 2>/dev/null; } ||
  missing "clang, or Python with pip to fetch its library" "clang, or python3-pip" "clang, or python3-pip"

if [ ${#missing[@]} -gt 0 ]; then
  {
    echo "credits_ledger cannot be built: missing on this machine, for this user:"
    printf '%s\n' "${missing[@]}"
    echo "A build needs no right to write to the server: run \`make build-release PG_CONFIG=...\` as a user who has all of this,"
    echo "then \`make install PG_CONFIG=...\` with the same PG_CONFIG as root, who needs none of it."
  } >&2
  exit 1
fi
echo "$pg_config"
