#!/bin/sh
# Refuses before anything is unpacked if the processor lacks an instruction that this
# build of the engine uses: it would end with "illegal instruction".
set -eu
flag=@FLAG@ name=@NAME@
[ -z "$flag" ] || [ ! -r /proc/cpuinfo ] || grep -qw -- "$flag" /proc/cpuinfo || {
	echo "shoal: this machine's processor lacks $flag; install $name instead" >&2
	exit 1
}
