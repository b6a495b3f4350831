#!/usr/bin/env bash
# Django has had GeneratedField since 5.0, and inspectdb reads a table's columns from the catalog, but a GENERATED ALWAYS AS ... STORED column comes
# out as an ordinary field: each INSERT of the model names it and is refused (428C9). An identity column that is not the primary key comes out as an
# AutoField, which Django's own checks refuse (fields.E100). Neither has a comment, while a guessed type has one. So the model of a table with
# generated columns reads, and cannot write.
#
# Seen with Django 5.2.19, psycopg 3.3.9 and Postgres 15.19.
set -euo pipefail
. "$(dirname "$0")/lib/server.sh"
. "$(dirname "$0")/lib/packages.sh"

start_server 15
python_with Django==5.2.19 'psycopg[binary]==3.3.9'
sql <<'SQL'
CREATE TABLE item (name text PRIMARY KEY, size int NOT NULL GENERATED ALWAYS AS (length(name)) STORED);
CREATE TABLE numbered (name text PRIMARY KEY, number bigint NOT NULL GENERATED ALWAYS AS IDENTITY);
SQL

# said MODEL: what Django's checks say of the model that inspectdb writes, and what comes of an INSERT with it.
said() {
  run_python <<PY
import io, os
import django
from django.conf import settings
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "HOST": os.environ["PGHOST"], "USER": "postgres", "NAME": "postgres"}})
django.setup()
from django.core.management import call_command
out = io.StringIO()
call_command("inspectdb", stdout=out)
names = {"__name__": "generated"}
exec(out.getvalue().replace("class Meta:", "class Meta:\n        app_label = 'generated'"), names)
model = names["$1"]
try:
    model.objects.create(name="abc")
    inserted = "inserted"
except Exception as error:
    inserted = error.__cause__.sqlstate
print([check.id for check in model.check()], inserted)
PY
}

expect "a generated column: checks, and an INSERT" "[] inserted" "[] 428C9" "$(said Item)"
expect "an identity column beside the primary key: checks, and an INSERT" "[] inserted" "['fields.E100'] 428C9" "$(said Numbered)"
