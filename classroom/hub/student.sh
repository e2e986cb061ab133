#!/bin/sh
# The environment that all students share: python3 and the course at its pinned versions, without the solutions.
#   sh classroom/hub/student.sh /srv/dynlib/student
# Run in the course's folder. What is there is brought up to date. The Dockerfile runs the same.
set -eu
venv=$1
torch=$(sed -n 's/^TORCH := //p' Makefile)
index=$(sed -n 's/^TORCH_CPU_INDEX := //p' Makefile)
hub=$(grep '^jupyterhub==' classroom/hub/requirements.txt)
umask 022
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
case $(readlink -f "$venv/bin/python") in
    /root/* | /home/*) echo "$venv uses a Python that students cannot run: remove it, then PYTHON=/usr/bin/python3" && exit 1 ;;
esac
"$venv/bin/pip" install --quiet --no-deps --retries 1 --extra-index-url "$index" "torch==$torch"
copy=$(mktemp -d) # building writes into the folder, which is not root's
trap 'rm -rf "$copy"' EXIT
cp -r LICENSE README.md pyproject.toml dynlib "$copy"
"$venv/bin/pip" install --quiet -c constraints.txt "$copy[course]" "$hub"
