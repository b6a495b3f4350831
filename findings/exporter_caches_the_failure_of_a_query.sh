#!/usr/bin/env bash
# A custom query of postgres_exporter that fails makes pg_exporter_last_scrape_error 1. If it has cache_seconds, it does so in one scrape; the next
# ones, until the cache is too old, say 0 while the metrics of the query are missing all the same. An alert on
# `pg_exporter_last_scrape_error > 0` with a `for:` never fires.
#
# The exporter keeps the answer of a query with cache_seconds whether it failed or not, without the error, and what comes from the cache is no
# error. The failure is looked at again when the cache is too old.
#
# Seen with prometheus-postgres-exporter 0.11.1-3+b5 of Debian 12 (amd64) and Postgres 15.19.
set -euo pipefail
. "$(dirname "$0")/lib/server.sh"

start_server 15
(cd "$work" && apt-get -qq download prometheus-postgres-exporter=0.11.1-3+b5 2>/dev/null)
package=$(echo "$work"/prometheus-postgres-exporter_*.deb)
echo "9c09749b4a167774c1ce65e8fb546c680215901c912a542829d559dbe199845b  $package" | sha256sum --check --quiet
dpkg-deb -x "$package" "$work/exporter"

cat > "$work/queries.yaml" <<'YAML'
kept:
  cache_seconds: 600
  query: SELECT number FROM not_there
  metrics:
    - number: {usage: GAUGE, description: A number}
YAML

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
DATA_SOURCE_NAME="host=$work user=postgres sslmode=disable" "$work/exporter/usr/bin/prometheus-postgres-exporter" \
  --extend.query-path="$work/queries.yaml" --web.listen-address="127.0.0.1:$port" --disable-default-metrics --disable-settings-metrics \
  >/dev/null 2>&1 &
trap "kill $!; stop_server" EXIT

# scrape: the error of the last scrape, and how many samples the query has
scrape() {
  curl -sf --retry 10 --retry-connrefused --retry-delay 1 "http://127.0.0.1:$port/metrics" |
    awk '/^pg_exporter_last_scrape_error/ { failed = $2 } /^kept_/ { samples++ } END { print "error " failed + 0 ", samples " samples + 0 }'
}

expect "the first scrape" "error 1, samples 0" "error 1, samples 0" "$(scrape)"
expect "the second scrape, of a query that still fails" "error 1, samples 0" "error 0, samples 0" "$(scrape)"
