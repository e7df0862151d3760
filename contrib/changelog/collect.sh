#!/bin/sh
# Prints a release's notes from the files of its changes: collect.sh VERSION [FOLDER].
# README.md beside this has their form.
set -eu
[ $# -ge 1 ] || { echo "usage: collect.sh VERSION [FOLDER]" >&2; exit 2; }
folder=${2:-$(dirname "$0")/unreleased}
kinds="Security Changed Added Fixed"

for f in "$folder"/*.md; do
	[ -e "$f" ] || continue
	first=$(head -n 1 "$f")
	case " $kinds " in
	*" ${first%%: *} "*) ;;
	*) echo "changelog: $f begins with \"$first\", not with one of: $kinds, a colon and a sentence" >&2; exit 1 ;;
	esac
	case $first in
	*.) ;;
	*) echo "changelog: the first line of $f is no sentence: it has no full stop" >&2; exit 1 ;;
	esac
done

echo "# shoal $1"
for kind in $kinds; do
	title="\n## $kind\n"
	for f in "$folder"/*.md; do
		[ -e "$f" ] && head -n 1 "$f" | grep -q "^$kind: " || continue
		# shellcheck disable=SC2059 # the title is this script's
		[ -z "$title" ] || printf "$title\n"
		title=""
		# An entry is a list item; what follows the first line is indented below it.
		sed -e "1s/^$kind: /- /" -e '2,$s/^./  &/' "$f"
	done
done
