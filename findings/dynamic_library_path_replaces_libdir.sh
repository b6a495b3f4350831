#!/usr/bin/env bash
# In Postgres 18, `$libdir/name` is no longer a file of the server's library folder: it is looked up in dynamic_library_path, as `name` is. So a
# dynamic_library_path that has only the folder of an extension of one's own takes plpgsql away from every session, although its functions are
# declared with `$libdir/plpgsql`. In Postgres 17 the same setting harms nothing of the kind.
#
# It came with extension_control_path, for the sake of extensions whose control files say `$libdir/name` as their module_pathname and which lie
# elsewhere now. Whoever sets the path writes `$libdir` into it, and whoever starts another server on the same data (a replica, pg_upgrade's
# new server, single-user mode) sets it there, too: without it, the function is there and its library is not, and an extension with an event
# trigger of its own cannot even be dropped.
#
# Seen with Postgres 17.11 and 18.6.
set -euo pipefail
. "$(dirname "$0")/lib/server.sh"

try() { sql <<< "SET dynamic_library_path = '$1'; DO 'BEGIN END'; SELECT 'plpgsql runs'" 2>&1 | sed 's/^ERROR:  //'; }

start_server 17
expect "Postgres 17, without \$libdir in the path:" "plpgsql runs" "plpgsql runs" "$(try /extensions/mine)"
stop_server
work=$(mktemp -d)
chmod 755 "$work"
start_server 18
expect "Postgres 18, without \$libdir in the path:" "plpgsql runs" 'could not access file "plpgsql": No such file or directory' "$(try /extensions/mine || true)"
expect "Postgres 18, with \$libdir in the path:" "plpgsql runs" "plpgsql runs" "$(try '$libdir:/extensions/mine')"
