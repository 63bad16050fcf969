#!/bin/sh
# Runs the fuzz targets beside each other and ends with a verdict; called by "make fuzz".
#
#   run.sh SOURCE BUILD     tests/fuzz of the tree, which is only read, and of the build directory
#
#   FUZZ_SECONDS=N          how long each of them runs                  (default: 600)
#   FUZZ_JOBS=N             how many at once                            (default: one a processor)
#   FUZZ_ONLY="line proxy"  only these                                  (default: all)
#
# What they find out about the code stays in BUILD/found, inputs that break a promise in BUILD/findings.
set -u

source=$1
build=$2
seconds=${FUZZ_SECONDS:-600}
jobs=${FUZZ_JOBS:-$(nproc)}
names=${FUZZ_ONLY:-}
: "${seconds:=600}" "${jobs:=$(nproc)}"
if [ -z "$names" ]; then
	for target in "$build"/fuzz_*; do
		case $target in
		*.o) ;;
		*) [ -x "$target" ] && names="$names ${target##*/fuzz_}" ;;
		esac
	done
fi
if [ -z "$names" ]; then
	echo "there is no fuzz target in $build" >&2
	exit 1
fi
mkdir -p "$build/findings" "$build/logs"
TMPDIR=$(mktemp -d) || exit 1
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
pids=
# shellcheck disable=SC2086
trap 'kill $pids 2>/dev/null; exit 1' HUP INT TERM

# run_one NAME: its result is in logs/NAME.status.
run_one() {
	name=$1
	mkdir -p "$build/found/$name"
	set -- "$build/found/$name" "$source/corpus/$name"
	if [ -f "$source/$name.dict" ]; then
		set -- -dict="$source/$name.dict" "$@"
	fi
	"$build/fuzz_$name" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=8192 \
		-print_final_stats=1 -artifact_prefix="$build/findings/$name-" "$@" \
		>"$build/logs/$name.log" 2>&1 &
	target=$!
	trap 'kill "$target"' TERM
	wait "$target"
	echo $? >"$build/logs/$name.status"
}

# report NAME: one line, or what was found.
report() {
	log=$build/logs/$1.log
	if [ "$(cat "$build/logs/$1.status" 2>/dev/null)" = 0 ]; then
		executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
		coverage=$(sed -n 's/.*\(cov: [0-9]* ft: [0-9]*\).*/\1/p' "$log" | tail -n 1)
		printf 'ok      %-10s %s executions, %s\n' "$1" "$executions" "$coverage"
		return 0
	fi
	printf 'FAILED  %s\n' "$1"
	tail -n 60 "$log" | sed 's/^/        /'
	artifact=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
	echo "        again: $build/fuzz_$1 ${artifact:-$build/findings/$1-...}"
	return 1
}

# As all take the same time, the one that was begun first is waited for first.
running=0
failed=0
for name in $names; do
	if [ "$running" -ge "$jobs" ]; then
		# shellcheck disable=SC2086
		set -- $pids
		wait "$1"
		shift
		pids=$*
		running=$((running - 1))
	fi
	rm -f "$build/logs/$name.status"
	run_one "$name" &
	pids="$pids $!"
	running=$((running + 1))
done
wait
for name in $names; do
	report "$name" || failed=$((failed + 1))
done
[ "$failed" -eq 0 ]
