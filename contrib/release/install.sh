#!/bin/sh
# Installs shoal on Linux, or a newer version over an older one:
#   curl -fsSL https://github.com/shoalnet/shoal/releases/latest/download/install.sh | sh
# Into /usr/local if that may be written (as root), else into ~/.local; --prefix DIR
# chooses, --uninstall removes. Nothing is installed whose checksum and signature do not
# match the key in this script.
set -eu

# A release fills these in. Without a signer this is the script of a working tree: it
# then takes SHOAL_SIGNER, an SSH public key, or refuses.
base=${SHOAL_BASE:-@BASE@}
signer="@SIGNER@"

main() {
	case $signer in @*) signer="" ;; esac
	signer=${SHOAL_SIGNER:-$signer}
	prefix="" remove=""
	while [ $# -gt 0 ]; do
		case $1 in
		--prefix)
			[ $# -gt 1 ] || fail "--prefix needs a directory"
			prefix=$2
			shift
			;;
		--uninstall) remove=1 ;;
		-h | --help)
			echo "usage: install.sh [--prefix DIR] [--uninstall]"
			exit 0
			;;
		*) fail "there is no option $1; there are --prefix DIR and --uninstall" ;;
		esac
		shift
	done
	if [ -z "$prefix" ]; then
		prefix=/usr/local
		{ [ -d $prefix ] && [ -w $prefix ] && [ -w "$prefix/bin" ]; } || prefix=$HOME/.local
	fi
	case $prefix in /*) ;; *) prefix=$PWD/$prefix ;; esac
	list=$prefix/share/shoal/installed-files
	if [ -n "$remove" ]; then
		uninstall
	else
		install
	fi
}

say() { echo "$*" >&2; }
fail() { say "install: $*"; exit 1; }

install() {
	[ "$(uname -s)" = Linux ] || fail "this script is for Linux; on macOS: brew install --formula $base/shoal.rb; for Windows there is a .zip at $base"
	case $(uname -m) in
	x86_64 | amd64) target=amd64 needs=avx2 ;;
	aarch64 | arm64) target=arm64 needs=asimddp ;;
	*) fail "there is no build for $(uname -m); see the README on building it" ;;
	esac
	grep -qw "$needs" /proc/cpuinfo 2>/dev/null || target=$target-baseline
	for tool in tar gzip sha256sum sed awk; do have $tool || fail "$tool is needed"; done
	[ -n "$signer" ] || fail "this script has no key to verify a release with; take the one of a release, or set SHOAL_SIGNER to the public key of whoever signs"
	have ssh-keygen || fail "ssh-keygen is needed to verify the release; install OpenSSH's client (openssh-client, openssh-clients)"

	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	trap 'exit 130' INT TERM
	fetch SHA256SUMS
	fetch SHA256SUMS.sig
	echo "release $signer" >"$work/allowed"
	ssh-keygen -Y verify -n file -f "$work/allowed" -I release -s "$work/SHA256SUMS.sig" <"$work/SHA256SUMS" >/dev/null 2>&1 ||
		fail "the signature of SHA256SUMS does not match: somebody may have changed the release. Nothing was installed"
	archive=$(awk -v end="-linux-$target.tar.gz" '{ n = length($2) - length(end) + 1 } n > 0 && substr($2, n) == end { print $2; exit }' "$work/SHA256SUMS")
	case $archive in
	"") fail "the release has nothing for $target" ;;
	*/*) fail "the release names $archive, which is no file's name" ;;
	esac
	say "fetching $archive"
	fetch "$archive"
	(cd "$work" && grep -F "  $archive" SHA256SUMS | sha256sum -c --status) ||
		fail "$archive does not have the checksum that was signed. Nothing was installed"
	mkdir "$work/tree"
	tar -xzf "$work/$archive" -C "$work/tree" --strip-components=1
	# Units in the archive name /usr/local; elsewhere `shoal service install` writes one.
	[ "$prefix" = /usr/local ] || rm -rf "$work/tree/lib/systemd" "$work/tree/lib/sysusers.d" "$work/tree/lib/tmpfiles.d" "$work/tree/lib/sysctl.d"
	"$work/tree/bin/shoal" version >"$work/version" 2>&1 || fail "it does not run here: $(head -1 "$work/version")"

	mkdir -p "$prefix/share/shoal"
	(cd "$work/tree" && find . ! -type d | sed 's|^\./||' | LC_ALL=C sort) >"$work/list"
	# Each file is renamed into place, so that a node that runs keeps its own.
	while read -r f; do
		mkdir -p "$prefix/$(dirname "$f")"
		cp -P "$work/tree/$f" "$prefix/$f.new-shoal"
		mv -f "$prefix/$f.new-shoal" "$prefix/$f"
	done <"$work/list"
	if [ -f "$list" ]; then # what an older version had and this one has not
		LC_ALL=C sort "$list" | LC_ALL=C comm -23 - "$work/list" | while read -r f; do rm -f "${prefix:?}/$f"; done
	fi
	cp "$work/list" "$list"
	say "installed $(head -1 "$work/version") in $prefix"
	case ":$PATH:" in
	*":$prefix/bin:"*) ;;
	*) say "its directory is not searched for programs yet; type: export PATH=\"$prefix/bin:\$PATH\"" ;;
	esac
	say "try: shoal run tinytales \"Hello\""
}

uninstall() {
	[ -f "$list" ] || fail "nothing that this script installed is in $prefix"
	while read -r f; do
		rm -f "${prefix:?}/$f"
	done <"$list"
	rm -f "$list"
	rmdir "$prefix/share/shoal" 2>/dev/null || true
	say "removed shoal from $prefix; models and keys stay in ~/.shoal"
}

have() { command -v "$1" >/dev/null 2>&1; }

# fetch brings one file of the release.
fetch() {
	if have curl; then
		curl -fsSL --retry 3 -o "$work/$1" "$base/$1" || fail "$base/$1 cannot be had"
	elif have wget; then
		wget -qO "$work/$1" "$base/$1" || fail "$base/$1 cannot be had"
	else
		fail "curl or wget is needed"
	fi
}

# All of it is read before any of it runs: a connection that breaks runs no half of it.
main "$@"
