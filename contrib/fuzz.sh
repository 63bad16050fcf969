#!/bin/sh
# Installs what fuzzing needs (Debian), builds echod with libFuzzer out of tree, and runs the targets.
# Safe to run again: what a run found out about the code is the start of the next one.
#
#   FUZZ_BUILD=DIR          build there                                 (default: build-fuzz)
#   FUZZ_SECONDS=N          how long each target runs                   (default: 600)
#   FUZZ_JOBS=N             how many at once                            (default: one a processor)
#   FUZZ_ONLY="line proxy"  only these                                  (default: all)
set -eu

top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
build=${FUZZ_BUILD:-$top/build-fuzz}
# shellcheck source=contrib/lib.sh
. "$top/contrib/lib.sh"

say "What fuzzing needs"
need_packages "$BUILD_PACKAGES clang libclang-rt-14-dev llvm-14"

say "Building in $build"
CC=clang
export CC
configure_in "$build" --prefix="$CHECK_PREFIX" --enable-werror --enable-fuzzing
build_in "$build"

say "Fuzzing, ${FUZZ_SECONDS:-600} s a target"
make -C "$build" --no-print-directory -s fuzz FUZZ_SECONDS="${FUZZ_SECONDS:-}" \
	FUZZ_JOBS="${FUZZ_JOBS:-}" FUZZ_ONLY="${FUZZ_ONLY:-}"
