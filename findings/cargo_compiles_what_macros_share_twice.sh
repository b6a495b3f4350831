#!/usr/bin/env bash
# In a release build, cargo compiles a crate twice that both a macro and the library use: at level 0 for the macro, optimized for the library.
# One would guess that a profile override that has it at level 0 in both has it compiled once. It does not, nor does one that has all that it
# depends on at level 0, where the profile sets codegen-units = 1: a crate that has 1 for the library and nothing said for the macro is two. Level
# and units must be said for the crate and for each that it depends on. A release build of an extension with pgrx has 29 crates twice, syn among
# them. A profile that inherits dev's, and gives a level to those that matter, has none.
#
# Seen with cargo 1.95.0, quote 1.0.45. Needs cargo, and builds for some ten seconds.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir -p "$work/macros/src" "$work/src"
printf '%s\n' '[package]' 'name = "macros"' 'version = "0.1.0"' 'edition = "2024"' '[lib]' 'proc-macro = true' \
  '[dependencies]' 'quote = "=1.0.45"' > "$work/macros/Cargo.toml"
echo 'use quote as _;' > "$work/macros/src/lib.rs"
printf '%s\n' '[package]' 'name = "library"' 'version = "0.1.0"' 'edition = "2024"' '[workspace]' \
  '[dependencies]' 'macros = { path = "macros" }' 'quote = "=1.0.45"' \
  '[profile.release]' 'codegen-units = 1' \
  '[profile.quick]' 'inherits = "dev"' 'debug = false' '[profile.quick.package]' 'library = { opt-level = 3 }' > "$work/Cargo.toml"
echo 'use macros as _; use quote as _;' > "$work/src/lib.rs"
cd "$work"
cargo generate-lockfile --quiet

# compiled PROFILE OPTION...: how often quote is
compiled() {
  cargo build --profile "$1" --target-dir "$(mktemp -d -p "$work")" -v "${@:2}" 2>&1 | grep -c 'Running.*--crate-name quote '
}

# overrides OF NAME...: for cargo, that these crates have what `OF` says in a release build
overrides() {
  for name in "${@:2}"; do printf -- '--config\nprofile.release.package.%s.%s\n' "$name" "$1"; done
}

# expect WHAT GUESSED BEFORE NOW
expect() {
  printf '%s\n  one would have guessed: %s\n  seen:                   %s\n' "$1" "$2" "$4"
  [ "$3" = "$4" ] || { printf '  but it was once:        %s\n' "$3" >&2; exit 1; }
}

all=(quote proc-macro2 unicode-ident)
mapfile -t level < <(overrides opt-level=0 quote)
mapfile -t levels < <(overrides opt-level=0 "${all[@]}")
mapfile -t units < <(overrides codegen-units=16 "${all[@]}")
echo "how often quote is compiled:"
expect "debug:" 1 1 "$(compiled dev)"
expect "release:" 2 2 "$(compiled release)"
expect "release, at level 0 in both:" 1 2 "$(compiled release "${level[@]}")"
expect "release, with all that it depends on:" 1 2 "$(compiled release "${levels[@]}")"
expect "the same, with 16 units for all of them:" 1 1 "$(compiled release "${levels[@]}" "${units[@]}")"
expect "a profile that inherits dev's, with the library at level 3:" 1 1 "$(compiled quick)"
