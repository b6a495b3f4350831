#!/usr/bin/env bash
# A ledger over many nodes: a router and its nodes, each a private server of tools/postgres.sh, all reached by sockets.
#
#   nodes.sh pg_config [PG_CONFIG]      prints PG_CONFIG, or the one of Debian's newest server, if it can carry a router; otherwise
#                                       says what is missing, and exits with 1
#   nodes.sh start NAME PG_CONFIG COUNT starts COUNT nodes, in equal shares, and their router, which have credits_ledger and
#                                       credits_ledger_router installed; prints the folder of the router's socket. Its database is
#                                       NAME-router
#   nodes.sh node NAME PG_CONFIG NUMBER starts one more node, of which the router does not know, and prints the folder of its socket.
#                                       Its database is NAME-nodeNUMBER
#   nodes.sh stop NAME                  stops all of them and removes them
set -euo pipefail
shopt -s inherit_errexit

product=$(cd "$(dirname "$0")/.." && pwd)
unset "${!PG@}" # of the caller's own servers
most_nodes=16

psql_in() {
  "$("$1" --bindir)/psql" -Xq -v ON_ERROR_STOP=1 -h "$2" -U postgres "${@:3}" >/dev/null
}

carries_a_router() {
  local folder extension
  folder=$("$1" --sharedir)/extension
  for extension in plproxy postgres_fdw dblink; do [ -e "$folder/$extension.control" ] || return 1; done
}

pg_config() {
  local found=${1:-} candidate
  if [ -z "$found" ]; then
    for candidate in $(ls -d /usr/lib/postgresql/*/bin/pg_config 2>/dev/null | sort -V); do
      if [ -f "$("$candidate" --includedir-server 2>/dev/null)/postgres.h" ] && carries_a_router "$candidate"; then
        found=$candidate
      fi
    done
  fi
  if [ -z "$found" ] || ! carries_a_router "$found"; then
    {
      echo "A router needs a server with PL/Proxy, postgres_fdw and dblink${found:+, which that of $found does not have}. On Debian 12, as root:"
      echo "  apt-get install postgresql-15 postgresql-15-plproxy postgresql-server-dev-15"
      echo "A server elsewhere: give PG_CONFIG=/path/to/pg_config."
    } >&2
    exit 1
  fi
  echo "$found"
}

node() {
  local folder; folder=$("$product/tools/postgres.sh" start "$1-node$3" "$2")
  psql_in "$2" "$folder" "$1-node$3" -c "CREATE EXTENSION credits_ledger" -f "$product/sql/roles.sql" -f "$product/router/node.sql"
  echo "$folder"
}

start() {
  local name=$1 pg_config=$2 count=$3 number folder map="" names=""
  stop "$name"
  for ((number = 1; number <= count; number++)); do
    folder=$(node "$name" "$pg_config" "$number")
    map+="${map:+, }('node$number', '$folder', '$name-node$number', $number)"
    names+="${names:+, }'node$number'"
  done
  folder=$("$product/tools/postgres.sh" start "$name-router" "$pg_config")
  psql_in "$pg_config" "$folder" "$name-router" -c "SET client_min_messages = warning" \
    -c "CREATE EXTENSION credits_ledger_router CASCADE" -f "$product/router/roles.sql" \
    -c "INSERT INTO credits.nodes (node, host, dbname, node_number) VALUES $map" -c "SELECT credits.let_in('postgres')" \
    -c "INSERT INTO credits.buckets SELECT * FROM credits.spread_buckets(ARRAY[$names])"
  echo "$folder"
}

stop() {
  local number
  "$product/tools/postgres.sh" stop "$1-router"
  for ((number = 1; number <= most_nodes; number++)); do "$product/tools/postgres.sh" stop "$1-node$number"; done
}

case ${1:-} in
  pg_config) pg_config "${2:-}" ;;
  start) start "$2" "$3" "$4" ;;
  node) node "$2" "$3" "$4" ;;
  stop) stop "$2" ;;
  *) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
