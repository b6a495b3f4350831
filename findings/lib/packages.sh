# For the scripts of this folder, after lib/server.sh: client packages from PyPI and npm, into the temporary folder.

# The cluster takes its encoding from the environment; of SQL_ASCII, psycopg would make bytes.
export PGCLIENTENCODING=UTF8

# python_with REQUIREMENT...: defines `run_python` (with these packages; the program is on standard input).
python_with() {
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install -q --disable-pip-version-check "$@"
  printf '%s\n' "$@"
}

run_python() {
  PGHOST=$work PGUSER=postgres PGDATABASE=postgres "$work/venv/bin/python" -
}

# node_with PACKAGE@VERSION...: defines `run_node` (a module with these packages; the program is on standard input).
node_with() {
  mkdir "$work/node"
  npm install --silent --no-audit --no-fund --prefix "$work/node" "$@"
  printf '%s\n' "$@"
}

run_node() {
  cat > "$work/node/program.mjs"
  (cd "$work/node" && PGHOST=$work PGUSER=${user:-postgres} PGDATABASE=postgres node program.mjs)
}
