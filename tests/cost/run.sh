#!/bin/sh
# The guard of what echod costs in instructions and system calls; called by "make check".
#
#   run.sh            measure, write the table to cost.txt, and judge it
#   run.sh record     measure, and record the figures for this toolchain with $REASON
#
#   srcdir            the root of the tree; default: where this script stands
#   ECHOD             the executable that was built; the working directory is that of the build
#
# 77, which automake takes for "skipped": a tool is missing, or the build has sanitizers.
set -u

top=$(CDPATH='' cd -- "${srcdir:-$(dirname -- "$0")/../..}" && pwd) || exit 1
: "${ECHOD:?names no executable; make check sets it}"

skip() {
	echo "cost: skipped: $*"
	exit 77
}

/usr/bin/python3 -c 'import pytest' 2>/dev/null || skip "on Debian: apt-get install python3-pytest"
for tool in valgrind strace; do
	command -v "$tool" >/dev/null || skip "on Debian: apt-get install $tool"
done
grep -q __asan_init "$ECHOD" && skip "a build with sanitizers costs what sanitizers cost"

PYTHONDONTWRITEBYTECODE=1
PYTHONPATH=$top/tests/system
export PYTHONDONTWRITEBYTECODE PYTHONPATH
if [ "${1:-}" = record ]; then
	exec /usr/bin/python3 "$top/tests/cost/record.py"
fi
rm -f cost.txt
# -s: the table is part of the log, whether the tests pass or not.
exec /usr/bin/python3 -m pytest -p no:cacheprovider -q -s -rfEs --tb=short \
	"$top/tests/cost/test_cost.py"
