#!/bin/sh
# The service's user, its directories and the kernel's settings; nothing is started
# before its operator says so.
set -eu
command -v systemd-sysusers >/dev/null || exit 0
systemd-sysusers shoal.conf
systemd-tmpfiles --create shoal.conf || true
[ ! -d /run/systemd/system ] || {
	systemctl daemon-reload
	# After an upgrade a node that runs is started again; it hands its sessions over first.
	systemctl try-restart shoal.service || true
}
