#!/bin/sh
# The folder through which work is handed out, in and back, with the permissions that it must have.
#   sh classroom/hub/exchange.sh /srv/dynlib/exchange teacher
# nbgrader wants every student to be able to write into it. The sticky bit keeps them from renaming what is not theirs,
# and `inbound` can be written to and not listed, so that nobody finds what others handed in.
set -eu
for folder in "$1:1777" "$1/dynlib:0755" "$1/dynlib/outbound:0755" "$1/dynlib/inbound:3733" "$1/dynlib/feedback:0711"; do
    mkdir -p "${folder%:*}"
    [ "$(id -u)" != 0 ] || chown "$2" "${folder%:*}"
    chmod "${folder##*:}" "${folder%:*}"
done
