# For the scripts of this folder, after lib/server.sh: client packages from PyPI, npm and crates.io, into the temporary folder.

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

# rust_with DEPENDENCY...: builds the program on standard input with these dependencies, as Cargo.toml has them, and defines `run_rust`. The program
# gets the server's folder before its own arguments. It takes some ten seconds.
rust_with() {
  mkdir -p "$work/rust/src"
  cat > "$work/rust/src/main.rs"
  printf '%s\n' '[package]' 'name = "client"' 'version = "0.1.0"' 'edition = "2024"' '[workspace]' '[dependencies]' "$@" > "$work/rust/Cargo.toml"
  cargo build --quiet --manifest-path "$work/rust/Cargo.toml" --target-dir "$work/rust/target"
  printf '%s\n' "$@"
}

run_rust() {
  "$work/rust/target/debug/client" "$work" "$@"
}
