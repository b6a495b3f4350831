#!/usr/bin/env bash
# Debian's own server, and the package for it. For machines that may be changed: CI's, or a container.
#
#   debian.sh prepare      installs what `make deb` needs, and the server, if apt is here and may be used
#   debian.sh pg_config    prints the pg_config of the newest server that has its headers here; nothing if there is none
#   debian.sh check        installs the packages that `make deb` has made, tries them, and removes them without a trace
set -euo pipefail
cd "$(dirname "$0")/.."

may_use_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

majors() { PG_SUPPORTED_VERSIONS=installed pg_buildext supported-versions; }

prepare() {
  may_use_apt || { echo "skipped: apt is not here, or this user may not use it"; return; }
  apt-get update -q
  DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends \
    build-essential debhelper lintian postgresql postgresql-server-dev-all
  # For the router, where there is one for this major.
  DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "postgresql-$(majors | sort -n | tail -n 1)-plproxy" ||
    echo "skipped: no PL/Proxy for this server"
}

newest_pg_config() {
  command -v pg_buildext >/dev/null || return 0
  local major; major=$(majors | sort -n | tail -n 1)
  [ -z "$major" ] || echo "/usr/lib/postgresql/$major/bin/pg_config"
}

# traces PACKAGE: whatever has its name or the extension's, where packages put things.
traces() { find /etc /usr /var/lib -xdev -not -path '*/.cargo/*' \( -name "$1*" -o -name '*credits_ledger*' \) -not -path '/var/lib/postgresql/*' | sort; }

# try_package FILE MAJOR
try_package() {
  local package=postgresql-$2-credits-ledger bin=/usr/lib/postgresql/$2/bin before
  lintian --fail-on error,warning --tag-display-limit 0 "$1"
  before=$(mktemp)
  traces "$package" > "$before"
  dpkg --install "$1"
  ls /usr/share/doc/"$package"/{README.md,roles.sql,docs/sql.md,copyright,changelog.gz} >/dev/null
  pg_virtualenv -v "$2" make installcheck PG_CONFIG="$bin/pg_config"
  # README.md and the other pages are what a new user does first.
  CREDITS_LEDGER_BIN=$bin CREDITS_LEDGER_SERVER_USER=$(tools/postgres.sh user) \
    cargo test --quiet --locked -p credits_ledger_tests --test ledger -- readme
  dpkg --purge "$package"
  diff "$before" <(traces "$package")
  rm "$before"
}

check() {
  may_use_apt || { echo "skipped: no package may be installed here"; return; }
  local major file
  for major in $(majors); do
    file=$(ls -t target/packages/postgresql-"$major"-credits-ledger_*.deb | head -n 1)
    try_package "$file" "$major"
  done
}

case ${1:-} in
  prepare) prepare ;;
  pg_config) newest_pg_config ;;
  check) check ;;
  *) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
