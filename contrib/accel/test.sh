#!/bin/sh
# The Vulkan back end gives the text that the processor gives: for the model inside
# the program, and for MODEL (a GGUF file, or a name). Mesa's llvmpipe is no GPU, so
# it is used only where GGML_VK_VISIBLE_DEVICES names it, by its number in
# `vulkaninfo --summary`: here the first, if nobody says otherwise.
set -eu
cd "$(dirname "$0")/../.."
export GGML_VK_VISIBLE_DEVICES="${GGML_VK_VISIBLE_DEVICES-0}" SHOAL_NO_MDNS=true SHOAL_QUIET_BUILD=1
[ -e bin/lib/ollama/libggml-vulkan.so ] || { echo "first: make -C contrib/accel vulkan" >&2; exit 1; }
work=$(mktemp -d)
node=""
finish() {
	[ -z "$node" ] || kill "$node" 2>/dev/null || true
	[ -z "$node" ] || wait "$node" 2>/dev/null || true
	node=""
}
trap 'finish; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# answer MODEL DEVICE: an answer of a node with that device, and what it computed on.
answer() {
	bin/shoal node --home "$work/home" --model "$1" --span all --device "$2" --api 127.0.0.1:0 --listen /ip4/127.0.0.1/udp/0/quic-v1 \
		--pause-load 0 --lend-on-battery >"$work/log" 2>&1 &
	node=$!
	n=0
	until [ -e "$work/home/api.json" ] && bin/shoal status --home "$work/home" --json 2>/dev/null | jq -e '.serving[0].ready' >/dev/null; do
		n=$((n + 1))
		if [ $n -gt 600 ] || ! kill -0 "$node" 2>/dev/null; then
			cat "$work/log" >&2
			exit 1
		fi
		sleep 1
	done
	bin/shoal status --home "$work/home" --json | jq -r '.serving[0].devices | join(", ")' >"$work/devices"
	bin/shoal prompt --home "$work/home" --json --raw --temperature 0 -n 60 "Once upon a time" >"$work/answer"
	finish
}

same=0
for model in tinytales ${MODEL:-}; do
	answer "$model" none
	jq -c .tokens "$work/answer" >"$work/cpu"
	cpu=$(cat "$work/devices")
	answer "$model" Vulkan0
	jq -c .tokens "$work/answer" >"$work/vulkan"
	grep -qi vulkan "$work/devices" || { echo "$model was not on the Vulkan device but on $(cat "$work/devices")" >&2; cat "$work/log" >&2; exit 1; }
	if cmp -s "$work/cpu" "$work/vulkan"; then
		echo "$model: the same $(jq length "$work/cpu") tokens on $cpu and on $(cat "$work/devices"): $(jq -r .text "$work/answer" | head -c 80)"
	else
		echo "$model: other tokens on $cpu" && cat "$work/cpu" && echo "than on $(cat "$work/devices")" && cat "$work/vulkan"
		same=1
	fi
done
exit $same
