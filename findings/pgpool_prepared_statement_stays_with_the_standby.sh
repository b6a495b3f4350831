#!/usr/bin/env bash
# Pgpool-II with disable_load_balance_on_write = 'always' promises that once a session has written, all its reads go to the primary until it ends.
# A statement that the session prepared before it wrote goes on being run on the standby, if it is run outside of a transaction block, as
# drivers do that prepare what is used often. The same text unprepared goes to the primary. So a session reads its own write or not, depending on
# how often it had asked the same question before.
#
# (Where a statement goes is decided when it is parsed, and looked at again only inside a transaction block.)
#
# Seen with Pgpool-II 4.3.5 of Debian 12, psycopg 3.3.9 and Postgres 15.19. Fetches pgpool2 and what it links to with apt-get download.
set -euo pipefail
. "$(dirname "$0")/lib/server.sh"
. "$(dirname "$0")/lib/packages.sh"

start_server 15
python_with 'psycopg[binary]==3.3.9'
(
  mkdir "$work/debian" && cd "$work/debian"
  apt-get download -q pgpool2 libpgpool2 libmemcached11 libhashkit2 libpq5 libldap-2.5-0 libsasl2-2 >/dev/null
  for package in *.deb; do dpkg-deb -x "$package" .; done
)
run_pgpool() {
  (cd "$work/pool" && as_server_user env "LD_LIBRARY_PATH=$(echo "$work"/debian/usr/lib/*-linux-gnu)" \
    "$work/debian/usr/sbin/pgpool" -f "$work/pool/pgpool.conf" -F "$work/pool/pcp.conf" "$@")
}

install -d -o "$server_user" "$work/pool"
program pg_basebackup -h "$work" -U postgres -D "$work/pool/standby" --checkpoint=fast --no-sync
as_server_user touch "$work/pool/standby/standby.signal"
stop_all() {
  run_pgpool -m fast stop >/dev/null 2>&1 || true
  program pg_ctl stop -D "$work/pool/standby" -m immediate >/dev/null 2>&1 || true
  stop_server
}
trap stop_all EXIT
program pg_ctl start --wait -D "$work/pool/standby" -l "$work/pool/standby.log" \
  -o "-c listen_addresses='' -c unix_socket_directories='$work/pool' -c primary_conninfo='host=$work user=postgres'" >/dev/null
cat > "$work/pool/pgpool.conf" <<CONF
listen_addresses = ''
port = 9999
socket_dir = '$work/pool'
pcp_listen_addresses = ''
pcp_socket_dir = '$work/pool'
pid_file_name = '$work/pool/pid'
logdir = '$work/pool'
num_init_children = 2
backend_clustering_mode = 'streaming_replication'
backend_hostname0 = '$work'
backend_port0 = 5432
backend_weight0 = 0
backend_hostname1 = '$work/pool'
backend_port1 = 5432
backend_weight1 = 1
sr_check_user = 'postgres'
load_balance_mode = on
disable_load_balance_on_write = 'always'
CONF
touch "$work/pool/pcp.conf"
run_pgpool --version 2>&1
run_pgpool -n 2>"$work/log.pgpool" &
for _ in {1..200}; do [ ! -S "$work/pool/.s.PGSQL.9999" ] || break; sleep 0.05; done

sql <<< "CREATE TABLE item (number int)"
# said HOW: which server answers a read before the session has written, and after.
said() {
  run_python <<PY
import psycopg
with psycopg.connect(host="$work/pool", port=9999, autocommit=True) as db:
    def server():
        row = db.execute("SELECT current_setting('unix_socket_directories') = '$work' FROM (SELECT count(*) FROM item) AS items", prepare=$1).fetchone()
        return "primary" if row[0] else "standby"
    before = server()
    db.execute("INSERT INTO item VALUES (1)")
    print(f"{before}, {server()}")
PY
}
sleep 1 # until the standby has the table

expect "before a write and after it, not prepared:" "standby, primary" "standby, primary" "$(said False)"
expect "before a write and after it, prepared:" "standby, primary" "standby, standby" "$(said True)"
