#!/usr/bin/env bash
# A LISTEN through PgBouncer in transaction mode succeeds, and the client that asked for it hears nothing. One would guess that nobody does. But the
# server's session listens from then on, and goes from hand to hand: whoever has a transaction in it when a notification comes gets it, having
# asked for nothing.
#
# Seen with PgBouncer 1.18.0 of Debian 12, psycopg 3.3.9 and Postgres 15.19. Fetches pgbouncer and what it links to with apt-get download.
set -euo pipefail
. "$(dirname "$0")/lib/server.sh"
. "$(dirname "$0")/lib/packages.sh"

start_server 15
python_with 'psycopg[binary]==3.3.9'
(
  mkdir "$work/debian" && cd "$work/debian"
  apt-get download -q pgbouncer libevent-2.1-7 libc-ares2 >/dev/null
  for package in *.deb; do dpkg-deb -x "$package" .; done
)
install -d -o "$server_user" "$work/pool"
cat > "$work/pool/pgbouncer.ini" <<INI
[databases]
* = host=$work port=5432
[pgbouncer]
pool_mode = transaction
default_pool_size = 1
listen_addr =
listen_port = 6432
unix_socket_dir = $work/pool
auth_type = trust
auth_file = $work/pool/users
logfile = $work/pool/log
pidfile = $work/pool/pid
INI
echo '"postgres" ""' > "$work/pool/users"
run_pgbouncer() {
  (cd / && exec env "LD_LIBRARY_PATH=$(echo "$work"/debian/usr/lib/*-linux-gnu)" "${as_user[@]}" "$work/debian/usr/sbin/pgbouncer" "$@")
}
as_user=()
[ "$(id -u)" != 0 ] || as_user=(setpriv --reuid="$server_user" --regid="$server_user" --init-groups)
run_pgbouncer --version | head -n 1
run_pgbouncer -q "$work/pool/pgbouncer.ini" &
stop_all() {
  kill "$(cat "$work/pool/pid")" 2>/dev/null || true
  stop_server
}
trap stop_all EXIT
for _ in {1..200}; do [ ! -S "$work/pool/.s.PGSQL.6432" ] || break; sleep 0.05; done

# said WHO: what that client has heard when a third one has notified, by itself, while the stranger was in a transaction.
said() {
  run_python <<PY
import psycopg
def pooled():
    return psycopg.connect(host="$work/pool", port=6432, autocommit=True, prepare_threshold=None)
heard = []
with pooled() as listener, pooled() as stranger, psycopg.connect("", autocommit=True) as other:
    $1.add_notify_handler(lambda notification: heard.append(notification.payload))
    listener.execute("LISTEN news")
    with stranger.transaction():
        stranger.execute("SELECT 1")
        other.execute("NOTIFY news, 'for whoever asked'")
        stranger.execute("SELECT 1")
    listener.execute("SELECT 1")
print(heard)
PY
}

expect "whoever said LISTEN has heard:" "[]" "[]" "$(said listener)"
expect "another client has heard:" "[]" "['for whoever asked']" "$(said stranger)"
