#!/bin/bash
# Runs a command as the user vitrine, with a shop's settings: operator.sh vitrine status
# SETTINGS names the folder of another shop's settings than /etc/vitrine.
set -euo pipefail

settings=${SETTINGS:-/etc/vitrine}
if [ "$(id --user)" = 0 ]; then
  exec runuser --user vitrine -- env --chdir=/ HOME=/srv/vitrine SETTINGS="$settings" bash "$(realpath "$0")" "$@"
fi
set -a
for name in shop client store operator; do
  # shellcheck disable=SC1090  # which files, the folder decides
  . "$settings/$name.env"
done
set +a
cd "$VITRINE_HOME"
exec "$@"
