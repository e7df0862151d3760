#!/bin/sh
# shellcheck disable=SC2086 # names of tools and files have no spaces here
# Makes a release of shoal in dist/: archives, packages for Debian and RPM, a Homebrew
# formula, an installer, an SBOM, notes, checksums and a signature of those. The same
# commit, Go and C compiler give the same bytes.
set -eu

usage() {
	cat <<'EOF'
usage: contrib/release/release.sh [--dry-run] [--allow-dirty] [--unsigned] [--out DIR] [TARGET ...]

Without a key nothing is made, unless --unsigned says that nobody is to trust it.

Targets (default: the first four); the engine's speed is its compiler's choice of instructions:
  amd64           x86-64-v3: AVX2 and FMA, machines since about 2013
  amd64-baseline  x86-64-v2: SSE4.2, machines since about 2009
  arm64           ARMv8.2 with dot products and half floats, since about 2018
  arm64-baseline  ARMv8.0
  windows-amd64   x86-64-v3, with mingw-w64; tried with Wine only
  image           only if named: a container image for this machine, with docker, or
                  what CONTAINER names, on the bases that the environment gives

For the other architecture: gcc-aarch64-linux-gnu and g++-aarch64-linux-gnu, or
gcc-x86-64-linux-gnu and g++-x86-64-linux-gnu, and qemu-user-static to try what was
built; for Windows g++-mingw-w64-x86-64-posix and zip. Needed besides: go, git, jq,
objdump, and GNU tar. Each Linux target makes a .deb and an .rpm, too.

Environment:
  VERSION       of the release (default: what git describes)
  SIGN_KEY      an SSH key's file, to sign SHA256SUMS with (ssh-keygen -Y, namespace
                "file"); verify: ssh-keygen -Y verify -n file -f ALLOWED -I WHO
                -s SHA256SUMS.sig < SHA256SUMS
  BASE          where the files will be, for the formula and the installer (default:
                the release's address on GitHub)
  MINISIGN_KEY  a minisign secret key's file, likewise
  BUILD_IMAGE   the bases of the image, by digest: NAME@sha256:... What a tag means
  RUN_IMAGE     now is told by `docker buildx imagetools inspect NAME:TAG`; which tags
                they are, by the top of contrib/container/Containerfile
EOF
}

usual="amd64 amd64-baseline arm64 arm64-baseline"
all="$usual windows-amd64"
targets="" dry="" dirty="" unsigned="" image="" out=dist
while [ $# -gt 0 ]; do
	case $1 in
	--dry-run) dry=1 ;;
	--allow-dirty) dirty=1 ;;
	--unsigned) unsigned=1 ;;
	--out)
		[ $# -gt 1 ] || { echo "release: --out needs a directory" >&2; exit 2; }
		out=$2
		shift
		;;
	-h | --help) usage; exit 0 ;;
	image) image=1 ;;
	-*) echo "release: there is no option $1; see --help" >&2; exit 2 ;;
	*)
		case " $all " in
		*" $1 "*) targets="$targets $1" ;;
		*) echo "release: there is no target $1; there are: $all image" >&2; exit 2 ;;
		esac
		;;
	esac
	shift
done
[ -n "$targets$image" ] || targets=$usual
case $out in /*) ;; *) out=$PWD/$out ;; esac
cd "$(dirname "$0")/../.."

# The newest symbols of the system's libraries that a release may need: RHEL 9 has
# these, Ubuntu 22.04 and Debian 12 have newer ones.
max_glibc=2.34
max_glibcxx=3.4.29
nfpm=github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.4 # newer ones need modules that Go's proxy does not have
sbom_tool=github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0

say() { echo "release: $*" >&2; }
fail() { say "$*"; exit 1; }

VERSION=${VERSION:-$(git describe --tags --always --dirty)}
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
DATE=$(git log -1 --format=%cs)
export SOURCE_DATE_EPOCH
BASE=${BASE:-https://github.com/shoalnet/shoal/releases/download/$VERSION}
case $VERSION in *[!A-Za-z0-9._+-]*) fail "VERSION=$VERSION: letters, digits and ._+- only" ;; esac

# target sets what the build of a target needs.
target() {
	os=linux flag=""
	case $1 in
	amd64) flag=avx2 ;;
	arm64) flag=asimddp ;;
	esac
	case $1 in
	windows-amd64)
		os=windows arch=amd64 march=x86-64-v3 triple=x86_64-w64-mingw32 machine=none
		cc=$triple-gcc-posix cxx=$triple-g++-posix objdump=$triple-objdump runner="" name=shoal-$VERSION-windows-amd64
		return
		;;
	amd64) arch=amd64 march=x86-64-v3 triple=x86_64-linux-gnu machine=x86_64 ;;
	amd64-baseline) arch=amd64 march=x86-64-v2 triple=x86_64-linux-gnu machine=x86_64 ;;
	arm64) arch=arm64 march=armv8.2-a+dotprod+fp16 triple=aarch64-linux-gnu machine=aarch64 ;;
	arm64-baseline) arch=arm64 march=armv8-a triple=aarch64-linux-gnu machine=aarch64 ;;
	esac
	if [ "$(uname -m)" = $machine ]; then
		cc=gcc cxx=g++ objdump=objdump runner=""
	else
		cc=$triple-gcc cxx=$triple-g++ objdump=$triple-objdump
		runner=$(command -v qemu-$machine-static || command -v qemu-$machine || true)
		[ -z "$runner" ] || runner="$runner -L /usr/$triple"
	fi
	name=shoal-$VERSION-linux-$1
}

# need says what is missing before anything is built.
need() {
	missing=""
	for tool in "$@"; do
		command -v "$tool" >/dev/null || missing="$missing $tool"
	done
	[ -z "$missing" ] || fail "missing:$missing (see --help)"
}

# signer says who will sign, and refuses to go on without.
signer() {
	[ -z "${SIGN_KEY:-}" ] || need ssh-keygen
	[ -z "${MINISIGN_KEY:-}" ] || need minisign
	for key in "${SIGN_KEY:-}" "${MINISIGN_KEY:-}"; do
		[ -z "$key" ] || [ -f "$key" ] || fail "there is no key $key"
	done
	[ -n "$unsigned${SIGN_KEY:-}${MINISIGN_KEY:-}" ] ||
		fail "nobody signs: name a key in SIGN_KEY or MINISIGN_KEY, or say --unsigned"
}

# pinned holds that a base is named by what it is: a tag may be another image tomorrow.
pinned() {
	digest=${2#*@sha256:}
	case $digest in
	"$2" | *[!0-9a-f]*) digest="" ;;
	esac
	[ ${#digest} -eq 64 ] || fail "$1 is to be NAME@sha256:DIGEST, not \"$2\" (see --help)"
}

# build compiles one target to $1. OpenMP is linked in, since many machines lack it.
# The C and C++ libraries are not: GPU back ends, which are loaded at run time, bring
# them, and static ones would need a newer glibc than these do.
build() {
	if [ $os = windows ]; then
		flags="-O3 -march=$march -w -fopenmp -DGGML_USE_OPENMP -D_WIN32_WINNT=0x0A00 -ffile-prefix-map=$(go env GOMODCACHE)=/mod"
		env GOOS=windows GOARCH=$arch CGO_ENABLED=1 CC=$cc CXX=$cxx GOFLAGS=-mod=readonly \
			CGO_CFLAGS="$flags" CGO_CXXFLAGS="$flags" CGO_LDFLAGS=-fopenmp \
			go build -trimpath -buildvcs=false -o "$1" \
			-ldflags "-s -w -buildid= -X main.version=$VERSION -X main.date=$DATE -X main.commit=$commit -extldflags '-static -Wl,--no-insert-timestamp'" \
			./cmd/shoal
		return
	fi
	static=$work/$arch-static # where the linker looks first, and finds it static alone
	mkdir -p "$static"
	ln -sf "$($cc -print-file-name=libgomp.a)" "$static/"
	flags="-O3 -march=$march -w -fopenmp -DGGML_USE_OPENMP -ffile-prefix-map=$(go env GOMODCACHE)=/mod"
	env GOOS=linux GOARCH=$arch CGO_ENABLED=1 CC=$cc CXX=$cxx GOFLAGS=-mod=readonly \
		CGO_CFLAGS="$flags" CGO_CXXFLAGS="$flags" CGO_LDFLAGS=-fopenmp \
		go build -trimpath -buildvcs=false -o "$1" \
		-ldflags "-s -w -buildid= -X main.version=$VERSION -X main.date=$DATE -X main.commit=$commit -extldflags '-L$static -Wl,--build-id=none'" \
		./cmd/shoal
}

# newest is the newest version of a family of symbols that a binary needs.
newest() { $objdump -T "$1" | grep -o "(\?$2_[0-9.]*)\?" | tr -d '()' | sed "s/^$2_//" | sort -uV | tail -1; }

# inspect refuses a binary that needs more of a machine than it may.
inspect() {
	[ $os = linux ] || return 0
	libraries=$($objdump -p "$1" | awk '$1 == "NEEDED" { print $2 }' | sort | tr '\n' ' ')
	for l in $libraries; do
		case $l in
		libc.so.* | libm.so.* | libdl.so.* | libpthread.so.* | libresolv.so.* | librt.so.* | ld-linux* | libstdc++.so.6 | libgcc_s.so.1) ;;
		*) fail "$1 needs $l" ;;
		esac
	done
	for limit in "GLIBC $max_glibc" "GLIBCXX $max_glibcxx"; do
		family=${limit% *} most=${limit#* }
		needs=$(newest "$1" "$family")
		[ "$(printf '%s\n' "$needs" "$most" | sort -V | tail -1)" = "$most" ] || fail "$1 needs $family $needs; $most is the newest that it may"
		say "$name needs $family $needs"
	done
}

# licences copies those of all modules in a binary, and of the C sources.
licences() {
	mkdir -p "$2"
	go version -m "$1" | awk '$1 == "dep" { print $2 "@" $3 }' | while read -r module; do
		dir=$(go list -m -f '{{.Dir}}' "${module%@*}")
		found=$(find "$dir" -maxdepth 1 -type f \( -iname 'licen[sc]e*' -o -iname 'unlicense*' -o -iname 'copying*' -o -iname 'notice*' -o -iname 'patents*' \))
		[ -n "$found" ] || fail "$module has no licence in $dir"
		mkdir -p "$2/$module"
		echo "$found" | while read -r f; do cp "$f" "$2/$module/"; done
	done
	engine=$(go list -m -f '{{.Dir}}' github.com/ollama/ollama)
	mkdir -p "$2/ggml" "$2/go"
	cp "$engine/ml/backend/ggml/ggml/LICENSE" "$2/ggml/"
	sed -n '/^\/\/ Copyright/,/^\/\/ SOFTWARE/p' "$engine/ml/backend/ggml/ggml/src/ggml-cpu/llamafile/sgemm.cpp" >"$2/ggml/LICENSE.llamafile"
	grep -q Mozilla "$2/ggml/LICENSE.llamafile" || fail "llamafile's licence is not where it was"
	cp "$(go env GOROOT)/LICENSE" "$2/go/"
	echo "GCC's OpenMP library, libgomp, is linked in under the GPL, version 3, with the GCC Runtime Library Exception, version 3.1: https://www.gnu.org/licenses/gcc-exception-3.1.html" >"$2/GCC"
	chmod -R u+w,go+rX "$2"
}

# bom writes the bill of materials of a binary: what Go has linked, and besides that
# the C and C++ sources and the compiler's libraries, which it does not know of.
bom() {
	CGO_ENABLED=0 GOFLAGS='' go run $sbom_tool bin -json -licenses -std -noserial -notimestamp -version "$VERSION" -output "$2.part" "$1" 2>/dev/null ||
		fail "the bill of materials could not be made"
	engine=$(go list -m -f '{{.Dir}}' github.com/ollama/ollama)
	jq --sort-keys --arg ggml "$(sed -n 's/^FETCH_HEAD=//p' "$engine/Makefile.sync")" --arg gcc "$($cc -dumpfullversion)" '
		def c($name; $version; $purl; $licence): {type: "library", name: $name, version: $version, "bom-ref": $purl, purl: $purl, scope: "required", licenses: [$licence]};
		[c("ggml"; $ggml; "pkg:github/ggml-org/llama.cpp@\($ggml)"; {license: {id: "MIT"}}),
		 c("libgomp"; $gcc; "pkg:generic/gcc/libgomp@\($gcc)"; {expression: "GPL-3.0-or-later WITH GCC-exception-3.1"})] as $c
		| .components += $c
		| .dependencies += [$c[] | {ref: ."bom-ref"}]
		| (.dependencies[] | select(.ref | startswith("pkg:golang/github.com/ollama/ollama@")) | .dependsOn) |= ((. // []) + [$c[]."bom-ref"])
		| .metadata.tools[].hashes |= []' "$2.part" >"$2"
	rm "$2.part"
}

# package makes a .deb and an .rpm of what is in the tree $1, which has its files under
# /usr.
package() {
	case $t in
	*-baseline) called=shoal-baseline other=shoal ;;
	*) called=shoal other=shoal-baseline ;;
	esac
	number=${VERSION#v}
	case $number in [0-9]*) ;; *) number=0~$number ;; esac
	sed "s/@FLAG@/$flag/; s/@NAME@/$other/" contrib/release/preinstall.sh >"$1/preinstall"
	sed "s|@NAME@|$called|; s|@OTHER@|$other|; s|@ARCH@|$arch|; s|@VERSION@|$(echo "$number" | tr - '~')|; s|@ROOT@|$1|" contrib/release/nfpm.yaml.in >"$1/nfpm.yaml"
	for kind in deb rpm; do
		CGO_ENABLED=0 GOFLAGS='' go run $nfpm package -f "$1/nfpm.yaml" -p $kind -t "$out/$name.$kind" >&2 ||
			fail "the $kind could not be made"
		files="$files $name.$kind"
	done
}

# fill writes a template of this folder with what is known of the release.
fill() {
	sed "s|@BASE@|$BASE|g; s|@VERSION@|$VERSION|g; s|@NUMBER@|${VERSION#v}|g; s|@DATE@|$DATE|g; s|@SHA256@|${source:-}|g; s|@SIGNER@|${signer:-}|g" "contrib/release/$1" >"$out/$2"
	files="$files $2"
}

# pack makes an archive whose bytes hang on its content alone.
pack() {
	tar --sort=name --owner=0 --group=0 --numeric-owner --mode=u+rwX,go+rX-w --mtime="@$SOURCE_DATE_EPOCH" --format=gnu -C "$1" -cf - "$name" | gzip -9n >"$out/$name.tar.gz"
}

need go git jq tar gzip sha256sum
case " $targets " in *" windows-amd64 "*) need zip ;; esac
signer
if [ -n "$image" ]; then
	container=${CONTAINER:-docker}
	need "$container"
	pinned BUILD_IMAGE "${BUILD_IMAGE:-}"
	pinned RUN_IMAGE "${RUN_IMAGE:-}"
	say "shoal-$VERSION-image: $container, on $RUN_IMAGE, built in $BUILD_IMAGE"
fi
for t in $targets; do
	target "$t"
	need $cc $cxx $objdump
	say "$name: -march=$march, $cc $($cc -dumpfullversion)${runner:+, tried with ${runner%% *}}"
done
sh contrib/changelog/collect.sh "$VERSION" >/dev/null # a file of another form ends it before anything is built
[ -z "$dry" ] || exit 0
commit=$(git rev-parse HEAD) repo=$PWD
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
if [ -z "$dirty" ]; then
	[ -z "$(git status --porcelain)" ] || fail "there are changes that are not committed (--allow-dirty takes them)"
	# A copy, so that nobody changes it meanwhile.
	mkdir "$work/source"
	git archive HEAD | tar -xf - -C "$work/source"
	cd "$work/source"
fi
sh contrib/changelog/collect.sh "$VERSION" >"$out/NOTES.md"
files=NOTES.md
for t in $targets; do
	target "$t"
	say "building $name"
	root=$work/$t/root stage=$work/$t/$name
	mkdir -p "$work/$t"
	build "$work/$t/shoal"
	inspect "$work/$t/shoal"
	if [ $os = windows ]; then
		mkdir "$stage"
		cp "$work/$t/shoal" "$stage/shoal.exe"
		cp LICENSE README.md "$stage/"
		licences "$work/$t/shoal" "$stage/third-party"
		bom "$work/$t/shoal" "$out/$name.cdx.json"
		find "$stage" -exec touch -d "@$SOURCE_DATE_EPOCH" {} +
		rm -f "$out/$name.zip"
		(cd "$work/$t" && find "$name" | LC_ALL=C sort | TZ=UTC zip -qX9 "$out/$name.zip" -@)
		files="$files $name.zip $name.cdx.json"
		rm -rf "$stage"
		continue
	fi
	if [ -n "$runner" ] || [ "$(uname -m)" = $machine ]; then
		export SHOAL_QUIET_BUILD=1
		$runner "$work/$t/shoal" version --json >"$work/$t/version.json"
		[ "$(jq -r .version "$work/$t/version.json")" = "$VERSION" ] || fail "$name says that it is another version"
		run="$runner $work/$t/shoal"
	else
		say "$name was not tried: there is no qemu-$machine"
		run=${run:-}
	fi
	[ -n "$run" ] || fail "nothing that was built runs here, so there is no manual page; build this machine's target first"
	make --no-print-directory -s install-files DESTDIR="$root" PREFIX=/usr/local BIN="$work/$t/shoal" RUN="$run"
	mv "$root/usr/local" "$stage"
	doc=$stage/share/doc/shoal
	mkdir -p "$doc"
	mv "$root/etc/shoal/node.toml" "$doc/"
	cp LICENSE README.md "$doc/"
	licences "$work/$t/shoal" "$doc/third-party"
	bom "$work/$t/shoal" "$out/$name.cdx.json"
	pack "$work/$t"
	if [ $os = linux ]; then
		mkdir -p "$work/$t/package/usr"
		make --no-print-directory -s install-files DESTDIR="$work/$t/package" PREFIX=/usr BIN="$work/$t/shoal" RUN="$run"
		mkdir -p "$work/$t/package/usr/share/doc"
		cp -a "$doc" "$work/$t/package/usr/share/doc/shoal"
		rm "$work/$t/package/usr/share/doc/shoal/node.toml"
		package "$work/$t/package"
	fi
	files="$files $name.tar.gz $name.cdx.json"
	rm -rf "${work:?}/$t/root" "$stage"
done
if [ -n "$image" ]; then
	say "building shoal-$VERSION-image"
	$container build -f contrib/container/Containerfile -t "shoal:$VERSION" --build-arg BUILD_IMAGE="$BUILD_IMAGE" \
		--build-arg RUN_IMAGE="$RUN_IMAGE" --build-arg VERSION="$VERSION" --build-arg DATE="$DATE" .
	$container save -o "$out/shoal-$VERSION-image.tar" "shoal:$VERSION"
	files="$files shoal-$VERSION-image.tar"
fi
git -C "$repo" archive --prefix="shoal-$VERSION/" "$commit" | gzip -9n >"$out/shoal-$VERSION-source.tar.gz"
files="$files shoal-$VERSION-source.tar.gz"
source=$(sha256sum <"$out/shoal-$VERSION-source.tar.gz" | cut -d' ' -f1)
[ -z "${SIGN_KEY:-}" ] || signer=$(ssh-keygen -y -f "$SIGN_KEY" | cut -d' ' -f1,2)
fill shoal.rb.in shoal.rb
fill install.sh install.sh
cd "$out"
sha256sum $files >SHA256SUMS
[ -z "${SIGN_KEY:-}" ] || ssh-keygen -q -Y sign -n file -f "$SIGN_KEY" SHA256SUMS
[ -z "${MINISIGN_KEY:-}" ] || minisign -S -s "$MINISIGN_KEY" -m SHA256SUMS
[ -n "${SIGN_KEY:-}${MINISIGN_KEY:-}" ] || say "SHA256SUMS has no signature"
cat SHA256SUMS
