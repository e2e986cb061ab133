#!/bin/sh
# Builds the hub in $DYNLIB_HUB, or /srv/dynlib, or brings it up to date. Run it in the course's folder, as root:
#   sudo sh classroom/hub/install.sh
set -eu
hub=${DYNLIB_HUB:-/srv/dynlib}
here=classroom/hub
umask 022
mkdir -p "$hub/config" "$hub/state"
chmod 700 "$hub/config" "$hub/state"
sh $here/student.sh "$hub/student"
[ -x "$hub/hub/bin/python" ] || "${PYTHON:-python3}" -m venv "$hub/hub"
"$hub/hub/bin/pip" install --quiet -r $here/requirements.txt
npm install --silent --no-fund --prefix "$hub/proxy" configurable-http-proxy@5.3.0
mkdir -p "$hub/settings"
cp -r $here/student $here/teacher "$hub/settings/"
cp $here/jupyterhub_config.py $here/people.py "$hub/config/"
sh $here/exchange.sh "$hub/exchange" "${DYNLIB_TEACHER:-teacher}"
echo "The hub is in $hub. Let your class in with people.py, then start it: see $here/README.md."
