#!/usr/bin/env bash
# sqlacodegen writes Mapped[object] and NullType for a column of a type that SQLAlchemy does not know, such as Postgres's own xid8. SQLAlchemy takes
# NullType for "no type given", looks for one by the annotation, and finds none for object: the module raises at import, and with it goes every
# other table. That it says NullType itself reads as if it was sure of its output; the warning, if one looks, is of reflection. Corrected by hand
# to Text, the column works, computed or not.
#
# Seen with sqlacodegen 4.0.4, SQLAlchemy 2.1.9, psycopg 3.3.9 and Postgres 15.19.
set -euo pipefail
. "$(dirname "$0")/lib/server.sh"
. "$(dirname "$0")/lib/packages.sh"

start_server 15
python_with sqlacodegen==4.0.4 SQLAlchemy==2.1.9 'psycopg[binary]==3.3.9'
sql <<< "CREATE TABLE item (number int PRIMARY KEY, stamp xid8 NOT NULL DEFAULT pg_current_xact_id())"
"$work/venv/bin/sqlacodegen" "postgresql+psycopg://postgres@/postgres?host=$work" > "$work/generated.py" 2>"$work/warnings" || { cat "$work/warnings" >&2; exit 1; }
cat "$work/generated.py"

# said MODULE: what comes of an INSERT with it.
said() {
  run_python <<PY
import sys
sys.path.insert(0, "$work")
try:
    from $1 import Item
    from sqlalchemy import create_engine
    from sqlalchemy.orm import Session
    with Session(create_engine("postgresql+psycopg://")) as session:
        session.add(Item(number=1))
        session.commit()
    print("inserted")
except Exception as error:
    print(type(error).__name__)
PY
}

expect "an INSERT with the generated model:" "inserted" "MappedAnnotationError" "$(said generated)"
sed 's/Mapped\[object\] = mapped_column(NullType/Mapped[str] = mapped_column("stamp", Text/; s/^from sqlalchemy import /&Text, /' "$work/generated.py" > "$work/corrected.py"
expect "the same with Text for NullType:" "inserted" "inserted" "$(said corrected)"
