#!/bin/bash
# Switches all shops of this machine to another version of Vitrine, or back to the version before. Run it as root:
#
#   switch_version.sh /opt/vitrine/1.1    a clone beside the version in use, after `make setup`
#   switch_version.sh --back              the version before, with Prefect's database as it was at the switch
#
# The dump of Prefect's database lies beside the version it belongs to, as VERSION.dump. If a step of the switch fails, the
# version before runs again. ETC is the folder of the settings: vitrine/, and vitrine-NAME/ for each further shop.
set -euo pipefail

etc=${ETC:-/etc}
scripts=$(dirname "$(realpath "$0")")
shops=("$etc/vitrine")
for folder in "$etc"/vitrine-*/; do [ -d "$folder" ] && shops+=("${folder%/}"); done

fail() {
  echo "switch_version.sh: $1" >&2
  exit 1
}

# Runs a command of PostgreSQL with the connection of server.env.
database() (
  # shellcheck disable=SC1091
  . "$etc/vitrine/server.env"
  [[ $PREFECT_SERVER_DATABASE_CONNECTION_URL =~ ^postgresql\+asyncpg://([^:@]+):?([^@]*)@([^:/]+):([0-9]+)/([^?]+) ]] ||
    fail "PREFECT_SERVER_DATABASE_CONNECTION_URL is no postgresql+asyncpg://LOGIN:PASSWORD@HOST:PORT/NAME"
  export PGUSER=${BASH_REMATCH[1]} PGPASSWORD=${BASH_REMATCH[2]} PGHOST=${BASH_REMATCH[3]} PGPORT=${BASH_REMATCH[4]}
  export PGDATABASE=${BASH_REMATCH[5]}
  "$@"
)

# Stops if the version in a folder cannot write a shop's store as it is. Versions without operator.sh are not asked.
check_stores() {
  [ -x "$1/deployments/operator.sh" ] || return 0
  for folder in "${shops[@]}"; do
    answer=$(SETTINGS=$folder "$1/deployments/operator.sh" "$1/.venv/bin/vitrine" migrate) || fail "see above; nothing was changed"
    echo "store of $folder: $answer"
    case $answer in
      "nothing to migrate"* | "it is empty") ;;
      *) fail "nothing was changed; first run $1/.venv/bin/vitrine migrate --apply, which only this version can read afterwards" ;;
    esac
  done
}

stop_programs() {
  for folder in "${shops[@]}"; do supervisorctl stop "$(basename "$folder"):*" || true; done
}

start_programs() {
  supervisorctl update
  for folder in "${shops[@]}"; do supervisorctl start "$(basename "$folder"):*" || true; done
}

point_current_at() {
  ln --symbolic --force --no-dereference "$1" "$versions/current.new"
  mv --no-target-directory "$versions/current.new" "$versions/current"
}

go_back_to() {
  stop_programs
  if [ -f "$1.dump" ]; then
    database psql --quiet --command "DROP OWNED BY CURRENT_USER"
    database pg_restore --no-owner --single-transaction --dbname "" "$1.dump"
  fi
  point_current_at "$1"
  start_programs
  echo "$1 runs again"
}

upgrade_database() {
  # shellcheck disable=SC2016  # the inner shell expands it
  runuser --user vitrine-server -- env HOME=/srv/vitrine/server bash -c \
    'set -ea; . "$0/shop.env"; . "$0/server.env"; cd /; exec prefect server database upgrade --yes' "$etc/vitrine"
}

register_shops() {
  for folder in "${shops[@]}"; do SETTINGS=$folder "$target/deployments/operator.sh" python -m deployments.register; done
}

[ "$(id --user)" = 0 ] || fail "run it as root"
[ $# = 1 ] || fail "give the folder of a version, or --back"
if [ "$1" = --back ]; then
  versions=$(dirname "$(dirname "$scripts")")
  [ -L "$versions/previous" ] || fail "$versions has no version before"
  target=$(realpath "$versions/previous")
  check_stores "$target"
  go_back_to "$target"
  rm "$versions/previous"
  exit
fi
target=$(realpath "$1") versions=$(dirname "$(realpath "$1")")
[ -x "$target/.venv/bin/vitrine" ] || fail "$target is not ready: make -C $target setup"
former=$(realpath "$versions/current")
[ "$former" != "$target" ] || fail "$target is the version in use"
check_stores "$target"
rm --force "$former.dump"
trap 'echo "switch_version.sh: a step failed; going back" >&2; go_back_to "$former"; exit 1' EXIT
stop_programs
(umask 077 && database pg_dump --format=custom --file "$former.dump.part")
mv "$former.dump.part" "$former.dump"
ln --symbolic --force --no-dereference "$former" "$versions/previous"
point_current_at "$target"
upgrade_database
start_programs
register_shops
trap - EXIT
echo "$target runs; back: $target/deployments/switch_version.sh --back"
