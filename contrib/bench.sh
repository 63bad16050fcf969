#!/bin/sh
# Installs what the benchmarks need (Debian), fetches the servers that echod is compared with, builds out of
# tree, and measures. Safe to run again. A full run takes almost two hours, and wants a machine with two
# processors that does nothing else; its results go to tests/bench/results, those of any other run to
# build-bench/bench-results. Run it as root: then it has a network of its own.
#
#   contrib/bench.sh                    all of it
#   contrib/bench.sh --quick            two minutes, to see that it works
#   contrib/bench.sh --help             more words for tests/bench/bench.py
#
#   BENCH_BUILD=DIR       build there                          (default: build-bench)
#   BENCH_RESULTS=DIR     where all results go                 (default: as said above)
#   ECHOD_PEERS=DIR       where the peers are, see peers.sh    (default: build-peers)
#   CC=clang              another compiler
set -eu

top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
build=${BENCH_BUILD:-$top/build-bench}
# shellcheck source=contrib/lib.sh
. "$top/contrib/lib.sh"

say "What the build and the benchmarks need"
need_packages "$BUILD_PACKAGES liburing-dev libuv1-dev linux-perf python3 python3-matplotlib"

say "Building in $build"
configure_in "$build" --prefix="$CHECK_PREFIX" --enable-werror
build_in "$build"
make -C "$build" --no-print-directory -s -j "$(nproc)" bench-programs

say "Peers: what echod is compared with"
export ECHOD_PEERS="${ECHOD_PEERS:-$top/build-peers}"
"$top/contrib/peers.sh" "$ECHOD_PEERS"

say "Measuring"
exec env ECHOD="$build/src/echod" BENCH_PROGRAMS="$build/tests/bench" \
	/usr/bin/python3 "$top/tests/bench/bench.py" "$@"
