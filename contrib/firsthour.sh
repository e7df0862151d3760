#!/bin/bash
# The first hour of a newcomer, in fresh homes and without a network: what they type and
# what they read, with the output. `make firsthour` runs it; the last line is how many
# cases failed. It also prints how long `shoal run` takes to the first token, against
# `shoal node` and `shoal prompt`, with the model on the disk.
#
#   SHOAL=bin/shoal PORT=21480 contrib/firsthour.sh
set -u
cd "$(dirname "$0")/.."
SHOAL=$(realpath "${SHOAL:-bin/shoal}")
PORT=${PORT:-21480} # and the four that follow
DIR=$(mktemp -d)
export HOME=$DIR/me SHOAL_NO_MDNS=true SHOAL_QUIET_BUILD=1
unset SHOAL_HOME SHOAL_API SHOAL_MODEL SHOAL_BOOTSTRAP
mkdir "$HOME"
cases=0 failed=0 nodes=()

finish() {
	for pid in "${nodes[@]}"; do kill "$pid" 2>/dev/null; done
	wait
	rm -rf "$DIR"
}
trap finish EXIT

title() { printf "\n== %s (%d s)\n" "$*" "$SECONDS"; }

# try runs shoal with the arguments and keeps what it prints and its exit code.
try() {
	echo "\$ shoal $*"
	timeout 30 "$SHOAL" "$@" >"$DIR/out" 2>"$DIR/err" <"${INPUT:-/dev/null}"
	rc=$?
	sed 's/^/  /' "$DIR/out" | head -${SHOW:-12}
	sed 's/^/  ! /' "$DIR/err" | head -${SHOW:-12}
}

# want CODE [out|err|no-out|no-err REGEX]... judges the last try.
want() {
	cases=$((cases + 1))
	local wrong=""
	[ "$rc" = "$1" ] || wrong="exit code $rc, not $1"
	shift
	while [ $# -gt 0 ]; do
		case $1 in
		out) grep -Eq -- "$2" "$DIR/out" || wrong="$wrong; stdout lacks: $2" ;;
		err) grep -Eq -- "$2" "$DIR/err" || wrong="$wrong; stderr lacks: $2" ;;
		no-out) ! grep -Eq -- "$2" "$DIR/out" || wrong="$wrong; stdout has: $2" ;;
		no-err) ! grep -Eq -- "$2" "$DIR/err" || wrong="$wrong; stderr has: $2" ;;
		esac
		shift 2
	done
	if [ -n "$wrong" ]; then
		failed=$((failed + 1))
		echo "  FAILED: ${wrong#; }"
	fi
}

# start runs a node in the background; its words go to $DIR/NAME.log.
start() {
	local name=$1
	shift
	echo "\$ shoal $* &"
	"$SHOAL" "$@" >"$DIR/$name.out" 2>"$DIR/$name.log" </dev/null &
	started=$!
	nodes+=("$started")
}

# until_ COMMAND waits until a command succeeds, 20 s at most.
until_() {
	for _ in $(seq 200); do
		"$@" >/dev/null 2>&1 && return 0
		sleep 0.1
	done
	return 1
}

said() { grep -Eq -- "$2" "$DIR/$1.log"; }
serving() { [ -e "$1/api.json" ] && "$SHOAL" status --json --home "$1" | grep -q '"ready":true'; }
running() { [ -e "$1/api.json" ]; }

# judge TEXT COMMAND... is a case of its own.
judge() {
	local text=$1
	shift
	cases=$((cases + 1))
	if ! "$@" >/dev/null 2>&1; then
		failed=$((failed + 1))
		echo "  FAILED: $text"
	fi
}

# stopped PID: a process has ended.
stopped() { ! kill -0 "$1" 2>/dev/null; }
end() { # PID
	kill "$1" 2>/dev/null
	until_ stopped "$1"
}

title "nodes in homes of their own, which are looked at further below"
start waits node --model nosuchmodel --home "$HOME/waits" --api "$((PORT + 1))" --pause-load 0
waits=$started
start gone node --model "http://127.0.0.1:9/gone.gguf" --home "$HOME/gone" --api off --pause-load 0
gone=$started
start dead node --open --home "$HOME/dead" --api off --bootstrap /ip4/127.0.0.1/udp/9/quic-v1/p2p/12D3KooWHLc8D9jpc9r2BzHgaDJiLPBEYaygPh5Aqj1Bppd5B4zb
dead=$started
# A first start makes the keys, which two machines that trust each other exchange.
start key-a node --open --home "$HOME/a" --api off --pause-load 0
key_a=$started
start key-b node --open --home "$HOME/b" --api off --pause-load 0
key_b=$started

title "nothing is here yet"
try
want 0 out 'shoal run tinytales'
try ls
want 0 err 'shoal run tinytales' err 'shoal search'
try prompt hello
want 3 err 'shoal run MODEL'
try chat
want 3 err 'shoal run MODEL' no-err 'Ask away'

title "run"
SHOW=4
try run tinytales Hello
want 0 out '[a-z]' no-err '.'
echo "Tell me a story." >"$DIR/prompt"
INPUT=$DIR/prompt try run tinytales -n 8
want 0 out '[a-z]' no-err '.'
printf '$ echo ... | shoal run tinytales\n'
echo "Tell me a story." | "$SHOAL" run tinytales -n 8 >"$DIR/out" 2>"$DIR/err"
rc=$?
sed 's/^/  /' "$DIR/out"
want 0 out '[a-z]' no-err '.'
try run tinytales "Tell me a story." --json -n 3 -t 0
want 0 out '"tokens":\[[0-9]+,[0-9]+,[0-9]+\]'
try run tinytales "Name a fox." --format json -n 100
want 0 out '^\{'
try run tinytales Hello --verbose -n 4
want 0 err 'eval rate'
try run nosuchmodel Hello
want 5 err 'nosuchmodel'
try run
want 2 err 'name a model'
INPUT=/dev/null try run tinytales
want 5 err 'empty'
try prompt "Hello" -n 4
want 0 out '[a-z]'
try prompt --model tinytales --home "$HOME/other" "Hello" -n 4
want 0 out '[a-z]'
printf 'Hello\n/context\n/exit\n' >"$DIR/chat"
INPUT=$DIR/chat try chat -n 4
want 0 out '[a-z]' err 'of 512 tokens'
for i in 1 2 3 4 5 6 7 8; do echo "Tell me a long story about a fox, a lantern and the number $i."; done >"$DIR/chat"
echo /context >>"$DIR/chat"
INPUT=$DIR/chat try chat
want 0 err 'oldest turns are left out' err 'of 512 tokens'

title "Ollama's verbs"
try list
want 0 out 'tinytales'
SHOW=1 try ls --json
want 0 out '"name":"tinytales"'
try show tinytales
want 0 out 'blocks +8'
try search smollm2
want 0 out 'smollm2:135m'
try add tinytales --name copy
want 0 out 'copy'
try ps
want 0 err 'shoal run MODEL'
try stop
want 2 err 'shoal ps' err 'shoal drain'
try stop tinytales
want 1 err 'no node is running'
try help
want 0 out 'run '
try help model pin
want 0 out 'shoal model pin'
try rnu tinytales
want 2 err 'did you mean "run"'
try rm tinytales
want 0
try pull tinytales
want 0 out 'tinytales'

title "a node: its page, what it serves, and its owner's commands"
start one serve --model tinytales --span all --api "$PORT" --pause-load 0 --name attic
until_ serving "$HOME/.shoal"
sed 's/^/  /' "$DIR/one.log"
judge "the page comes first" sh -c "head -1 '$DIR/one.log' | grep -q 'Open http://127.0.0.1:$PORT in a browser'"
judge "blocks are explained" said one 'serving tinytales, all 8 blocks'
try status
want 0 out "page +http://127.0.0.1:$PORT" out 'node +attic, 12D3'
judge "one address" sh -c "[ \$(grep -c /p2p/ '$DIR/out') = 1 ]"
try status --all --json
want 0 out '"uptime_s":' out '"uptime_ns":'
try ps
want 0 out 'tinytales'
try run tinytales "Hello" -n 4
want 0 out '[a-z]' no-err '.'
try stop tinytales
want 0
try ps
want 0 err 'nothing is served'
try chat
want 3 err 'shoal run' no-err 'Ask away'
try run tinytales "Hello" -n 4
want 0 out '[a-z]'
until_ serving "$HOME/.shoal"
try doctor --offline
want 0 out "ok +models" out "page: open http://127.0.0.1:$PORT"
kill -HUP "$started"
until_ stopped "$started"
judge "SIGHUP drains" said one '^leaving' 
judge "and stops in order" said one '^stopped'

title "the owner gets an answer from his own machine, whatever the lending rules"
soon=$(date -d '+3 hours' +%H:00 2>/dev/null || echo 03:00)
later=$(date -d '+4 hours' +%H:00 2>/dev/null || echo 04:00)
start closed node --model tinytales --span all --api off --lend-hours "$soon-$later"
until_ said closed 'paused|serving'
try prompt "Hello" -n 4
want 0 out '[a-z]'
try status
want 0 out 'paused|lend'
try run tinytales "Hello" -n 4
want 0 out '[a-z]'
end "$started"

title "a daemon never ends because a model cannot be had"
until_ said waits 'nosuchmodel'
judge "it runs" kill -0 "$waits"
try status --home "$HOME/waits"
want 0 out 'nosuchmodel'
try run tinytales "Hello" -n 4 --home "$HOME/waits"
want 0 out '[a-z]'
judge "it still runs" kill -0 "$waits"
end "$waits"
until_ said gone 'gone.gguf|refused|waiting'
judge "an origin that is down does not end it" kill -0 "$gone"
try status --home "$HOME/gone"
want 0 out 'gone'
end "$gone"
"$SHOAL" model add tinytales --home "$HOME/moved" >/dev/null 2>&1
"$SHOAL" model export tinytales "$DIR/moved.gguf" --home "$HOME/moved" 2>/dev/null
"$SHOAL" model rm tinytales --home "$HOME/moved"
"$SHOAL" model add "$DIR/moved.gguf" --home "$HOME/moved" >/dev/null 2>&1
mv "$DIR/moved.gguf" "$DIR/elsewhere.gguf"
start moved node --model "$DIR/moved.gguf" --span all --home "$HOME/moved" --api off --pause-load 0
judge "what is whole on disk starts from disk" until_ serving "$HOME/moved"
end "$started"

title "words"
try prompt "What is 2 and 2?" --json -n 3
want 0 out '"tokens":\[[0-9]+,[0-9]+,[0-9]+\]'
try prompt -n 3 -- "-5 degrees --json"
want 0 no-out '\{'
try prompt "-5 degrees"
want 2 err 'behind --' err 'shoal prompt --help'
try model pin tinytales --span 0-5
want 0 out 'pinned'
try model show tinytales --nosuch
want 2 err 'see .shoal model show --help'
try status --log-level debug
want 0
try node --help
want 0 no-out 'device shoal' out 'device NAME'
try node --span 5
want 2 err '--span'
try config --api 11500
want 0 out 'api = '
mkdir -p "$HOME/set"
printf 'threads = 1\nlog-level = "error"\nno-mdns = true\nmodel = ["a"]\ndrain-time = "7s"\n' >"$HOME/set/config.toml"
echo '$ export SHOAL_THREADS= SHOAL_LOG_LEVEL= SHOAL_NO_MDNS= SHOAL_MODEL= SHOAL_DRAIN_TIME='
SHOAL_THREADS='' SHOAL_LOG_LEVEL='' SHOAL_NO_MDNS='' SHOAL_MODEL='' SHOAL_DRAIN_TIME='' try config --home "$HOME/set"
want 0 out 'threads = 1 .*line 1' out 'log-level = "error" .*line 2' out 'no-mdns = true .*line 3' out 'model = \["a"\] .*line 4' out 'drain-time = "7s" .*line 5'
until_ said dead 'cannot join'
sed 's/^/  /' "$DIR/dead.log"
judge "a bootstrap address that does not answer is said" said dead 'cannot join through .*/udp/9/'
end "$dead"

title "two machines of one owner: three commands, then a chat on both"
start desk node --model tinytales --home "$HOME/desk" --name desk --api off --pause-load 0
until_ said desk '^serving'
sed 's/^/  /' "$DIR/desk.log"
judge "nothing is open by accident" said desk '^only your own machines and those you let in \(swarm desk, 1 member\)'
judge "the swarm that was founded is named, and how to keep it" said desk 'shoal backup FILE'
try status --home "$HOME/desk"
want 0 out 'only your own machines and those you let in'
try status --home "$HOME/desk" --json
want 0 out '"open":false'
try doctor --home "$HOME/desk"
want 0 out 'ok +access +who may use this node: only your own machines' out 'shoal invite'
try invite --home "$HOME/desk"
want 0 out '^SHOAL'
try join --home "$HOME/lap" --name lap "$(cat "$DIR/out")"
want 0 out 'joined swarm desk'
printf 'Hello\n' >"$DIR/chat"
INPUT=$DIR/chat try chat -n 4 --home "$HOME/lap"
want 0 out '[a-z]' err 'desk'
INPUT=$DIR/chat try chat -n 4 --home "$HOME/desk"
want 0 out '[a-z]'
try status --home "$HOME/lap"
want 0 out 'its next start +only those in swarm desk \(2 members\)'
start lap node --home "$HOME/lap" --api off --pause-load 0
until_ said lap 'joined'
judge "who has joined a swarm founds none" sh -c "! grep -q founded '$DIR/lap.log'"
judge "and is in that alone" said lap '^only those in swarm desk \(2 members\)'
end "$started"
try prompt hello --home "$HOME/stranger"
want 3 err 'is in no swarm' err 'shoal join CODE' err '--open'

title "two machines that trust each other"
for n in a b; do
	until_ said "key-$n" '12D3'
	eval "$n=\$(sed -n 's/^node //p' \"$DIR/key-$n.log\")"
done
end "$key_a"
end "$key_b"
start a node --open --home "$HOME/a" --api "$((PORT + 2))" --listen-port "$((PORT + 4))" --pause-load 0 --name attic --trust "$b" --model tinytales --span 0-4
until_ said a '12D3'
start b node --open --home "$HOME/b" --api "$((PORT + 3))" --pause-load 0 --name cellar --trust "$a" --model tinytales --span 4-8 --bootstrap "/ip4/127.0.0.1/udp/$((PORT + 4))/quic-v1/p2p/$a"
until_ serving "$HOME/b"
until_ said b 'joined'
until_ said a '^serving'
sed 's/^/  /' "$DIR/b.log"
judge "joining is said" said b 'joined: 1 peer'
judge "blocks are explained" said a 'blocks 0-4, the first 4 of 8'
try peers --home "$HOME/b"
want 0 out 'attic'
try prompt "Hello" -n 4 --home "$HOME/b"
want 0 err 'attic' err 'stage [12] is the slowest'

title "terminals"
if command -v script >/dev/null && command -v stty >/dev/null; then
	terminal() { # COLUMNS: commands there, and what is wider
		for command in "status" "peers" "ls" "search" "show tinytales" "ps" "top --once" "prompt -n 4 Hello"; do
			script -qec "stty cols $1; '$SHOAL' $command --home '$HOME/b'" /dev/null </dev/null >"$DIR/out$1" 2>&1
			# Addresses stay whole, so that they can be copied.
			wide=$(tr '\r' '\n' <"$DIR/out$1" | sed 's/\x1b\[[0-9;?]*[A-Za-z]//g' | grep -v /p2p/ | awk -v n="$1" '{ gsub(/[\200-\277]/, "") } length($0) > n')
			[ -z "$wide" ] || printf 'shoal %s is wider than %s columns:\n%s\n' "$command" "$1" "$wide"
		done
	}
	widths=()
	for columns in 60 80 110; do
		terminal $columns >"$DIR/wide$columns" &
		widths+=($!)
	done
	wait "${widths[@]}"
	for columns in 60 80 110; do
		cat "$DIR/wide$columns"
		judge "lines are wider than $columns columns" test ! -s "$DIR/wide$columns"
	done
	cp "$DIR/out80" "$DIR/out"
	SHOW=40
	cat "$DIR/out" | sed 's/^/  /'
else
	echo "  (not tried: script(1) or stty(1) is missing)"
fi
for n in "${nodes[@]}"; do kill "$n" 2>/dev/null; done
for n in "${nodes[@]}"; do until_ stopped "$n"; done

title "seconds to the first token, with the model on the disk"
now() { date +%s.%N; }
first() { # of the answer, in seconds since $begin
	head -c 1 >/dev/null
	echo "$(now) $begin" | awk '{ printf "%.2f", $1 - $2 }'
}
begin=$(now)
run=$("$SHOAL" run tinytales "Hello" --home "$HOME/moved" 2>/dev/null </dev/null | first)
begin=$(now)
start timed node --model moved --home "$HOME/moved" --api off --pause-load 0
until_ said timed '^serving'
node=$("$SHOAL" prompt "Hello" --home "$HOME/moved" 2>/dev/null | first)
echo "  run: $run s; node and prompt: $node s; ratio $(echo "$run $node" | awk '{ printf "%.2f", $1 / $2 }')"

printf '\n%d cases, %d failed\n' "$cases" "$failed"
[ "$failed" = 0 ]
