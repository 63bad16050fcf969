#!/bin/sh
# From a fresh clone to a running echod: installs what the build needs (Debian), builds out of tree, starts
# the daemon on this machine only, sends it a line, and says how to go on. Safe to run again.
set -eu

top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
build=$top/build-try
# shellcheck source=contrib/lib.sh
. "$top/contrib/lib.sh"

say "1/4 What the build needs"
need_packages "$BUILD_PACKAGES"

say "2/4 Building in $build"
configure_in "$build" --prefix="$build/prefix" --sysconfdir="$build/etc"
build_in "$build"
install_from "$build"
echod=$build/prefix/sbin/echod

# Beside an installed echod, never instead of it: a pidfile, a control socket and a port of its own.
if [ "$(id -u)" -eq 0 ]; then
	run=/var/run
else
	run=$build/run
	mkdir -p "$run"
	chmod 0700 "$run"
fi
pidfile=$run/echod-try.pid
log=$build/echod.log

# start PORT: 0, or echod's exit code with its words in $build/start.err.
start() {
	"$echod" -P "$pidfile" -l 127.0.0.1 -p "$1" -o log.target="file:$log" 2>"$build/start.err"
}

# The port of the daemon that runs already.
running_port() {
	"$echod" status -P "$pidfile" | sed -n 's/.* on 127\.0\.0\.1:\([0-9]*\).*/\1/p'
}

say "3/4 Starting"
if "$echod" status -P "$pidfile" >/dev/null 2>&1; then
	echo "It runs already: restarting it in place, with what was just built."
	"$echod" restart -P "$pidfile"
	port=$(running_port)
else
	port=30333
	while ! start "$port"; do
		if ! grep -q 'Address already in use' "$build/start.err" || [ "$port" -ge 30433 ]; then
			cat "$build/start.err" >&2
			exit 1
		fi
		echo "Port $port is taken on this machine: trying $((port + 1))."
		port=$((port + 1))
	done
	cat "$build/start.err"
fi
"$echod" status -P "$pidfile"

say "4/4 Sending a line"
line="Hello from $(id -un) at $(date +%T)"
echo "> $line"
# perl-base is on every Debian; telnet is not.
reply=$(LINE=$line PORT=$port perl -MIO::Socket::INET -e '
	my $s = IO::Socket::INET->new(PeerAddr => "127.0.0.1", PeerPort => $ENV{PORT}, Timeout => 10)
		or die "cannot connect: $@\n";
	alarm 10;
	print $s "$ENV{LINE}\n";
	local $/;
	print <$s>;
')
echo "< $reply"
if [ "$reply" != "$line" ]; then
	echo "This is not the line that was sent. The log is $log." >&2
	exit 1
fi

cat <<TEXT

echod runs and answers. Go on with:

  talk to it   telnet 127.0.0.1 $port
  see it       $echod status -P $pidfile
  its log      $log
  stop it      $echod stop -P $pidfile

All tests:     $top/contrib/check.sh
TEXT
