#!/bin/sh
# dpkg says "remove", RPM 0 when no version stays; an upgrade stops nothing here.
set -eu
case ${1:-} in
remove | 0)
	[ ! -d /run/systemd/system ] || systemctl disable --now shoal.service || true
	;;
esac
