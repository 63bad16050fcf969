#!/bin/sh
# Installs what the tests need (Debian), builds echod out of tree, runs all tests and ends with a verdict.
# Safe to run again. Run it as root to run the tests that need root, too.
#
#   CHECK_BUILD=DIR       build there                          (default: build-check)
#   CHECK_CONFIGURE=...   more words for ./configure           (--enable-sanitizers, say)
#   CHECK_PYTEST=...      more words for pytest                (-m valgrind_subset, -k restart, say)
#   ECHOD_PEERS=DIR       where the peers are, see peers.sh    (default: build-peers)
#   CC=clang              another compiler
set -eu

top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
build=${CHECK_BUILD:-$top/build-check}
# shellcheck source=contrib/lib.sh
. "$top/contrib/lib.sh"

say "What the build and the tests need"
need_packages "$BUILD_PACKAGES $TEST_PACKAGES"

say "Building in $build"
# shellcheck disable=SC2086
configure_in "$build" --prefix="$CHECK_PREFIX" --enable-werror ${CHECK_CONFIGURE:-}
build_in "$build"
make -C "$build" --no-print-directory -s -j "$(nproc)" bench-programs

say "Peers: what echod is compared with, and what it talks to"
export ECHOD_PEERS="${ECHOD_PEERS:-$top/build-peers}"
"$top/contrib/peers.sh" "$ECHOD_PEERS"

failed=
say "Unit tests and lint"
if ! make -C "$build" --no-print-directory check; then
	failed="$failed unit-tests-and-lint"
	cat "$build/test-suite.log"
fi
# What a line costs; a build with sanitizers has no such table.
[ ! -f "$build/cost.txt" ] || cat "$build/cost.txt"

say "System tests"
# Ordinary users start it, too: they must reach it, wherever the clone lies (/root is closed to them).
work=$(mktemp -d /tmp/echod-check.XXXXXX)
chmod 0755 "$work"
trap 'rm -rf "$work"' EXIT
install_from "$build" "$work"
rm -f "$build/peers.txt"
# shellcheck disable=SC2086
if ! ECHOD="$work$CHECK_PREFIX/sbin/echod" ECHOD_PEERS_TABLE="$build/peers.txt" \
	BENCH_PROGRAMS="$build/tests/bench" \
	/usr/bin/python3 -m pytest "$top/tests/system" -p no:cacheprovider --basetemp="$work/pytest" \
	-n "${CHECK_JOBS:-4}" -q ${CHECK_PYTEST:-}; then
	failed="$failed system-tests"
fi
# The table; behind it stands what went wrong with the others.
[ ! -f "$build/peers.txt" ] || sed '/^$/q' "$build/peers.txt"

if [ -n "$failed" ]; then
	say "FAILED:$failed"
	exit 1
fi
say "All tests passed"
