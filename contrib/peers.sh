#!/bin/sh
# Fetches the servers and clients that tests and benchmarks compare echod with or let it talk to, and
# unpacks them, with the shared libraries that are not installed, into a folder (Debian). Nothing is
# installed and nothing is started: as packages, xinetd and haproxy would start a service on this
# machine, and two inetds exclude each other. Safe to run again: a complete folder is kept.
#
#   contrib/peers.sh DIRECTORY
#
# The executables are in DIRECTORY/usr/sbin and usr/bin; the libraries in DIRECTORY/usr/lib/* and lib/*.
set -eu

PACKAGES="xinetd inetutils-inetd haproxy rdate socat netcat-openbsd ncat"
EXECUTABLES="usr/sbin/xinetd usr/sbin/inetutils-inetd usr/sbin/haproxy usr/sbin/rdate usr/bin/socat
	bin/nc.openbsd usr/bin/ncat"

if [ $# -ne 1 ] || [ -z "$1" ]; then
	echo "Usage: $0 DIRECTORY" >&2
	exit 2
fi
case $1 in
/*) dir=$1 ;;
*) dir=$PWD/$1 ;;
esac

# Prints the folders of libraries below $dir, as LD_LIBRARY_PATH has them.
library_path() {
	find "$dir/usr/lib" "$dir/lib" -name '*.so*' 2>/dev/null | sed 's|/[^/]*$||' | LC_ALL=C sort -u |
		paste -sd : -
}

# Prints what is missing: an executable, or a library that one of them needs.
missing_files() {
	path=$(library_path)
	for executable in $EXECUTABLES; do
		if [ -x "$dir/$executable" ]; then
			LD_LIBRARY_PATH=$path ldd "$dir/$executable" 2>&1 |
				sed -n "s|^[[:space:]]*\(.*\) => not found.*|\1, for $executable|p"
		else
			echo "$executable"
		fi
	done
}

installed() {
	dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'install ok installed'
}

as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif command -v sudo >/dev/null 2>&1; then
		sudo "$@"
	else
		echo "Run this as root, then try again: $*" >&2
		return 1
	fi
}

# download NAMES...: their packages, into the directory where we are.
download() {
	# As root apt would download as the user _apt, who has no business in our directory.
	apt-get -qq -o APT::Sandbox::User=root download "$@"
}

# fetch NAME: download its package, at need with fresh lists.
fetch() {
	download "$1" 2>"$work/errors" && return
	if ! $updated; then
		updated=true
		as_root apt-get -qq update && download "$1" 2>"$work/errors" && return
	fi
	echo "The package $1 cannot be downloaded:" >&2
	cat "$work/errors" >&2
	exit 1
}

# Prints the libraries that the package in FILE needs and that are not installed.
missing_libraries() {
	dpkg-deb -f "$1" Depends | tr ',' '\n' | sed 's/^ *//; s/[ :(|].*//' | while IFS= read -r name; do
		case $name in
		lib*) installed "$name" || echo "$name" ;;
		esac
	done
}

stamp=$dir/.packages
if [ "$(cat "$stamp" 2>/dev/null)" = "$PACKAGES" ] && [ -z "$(missing_files)" ]; then
	echo "All is there."
	exit 0
fi
for tool in apt-get dpkg-deb dpkg-query; do
	command -v "$tool" >/dev/null 2>&1 && continue
	{
		echo "$tool is missing, so nothing can be fetched. Provide these programs and the libraries that"
		echo "they need in $dir/usr/lib, then name them in $stamp:"
		for executable in $EXECUTABLES; do
			echo "    $dir/$executable"
		done
		echo "    echo '$PACKAGES' >$stamp"
	} >&2
	exit 1
done

umask 022
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
mkdir -p "$dir"
cd "$work"
updated=false

# Each package may bring libraries to fetch; what was fetched leaves its name in $work/have.
todo=$PACKAGES
: >"$work/have"
while [ -n "$todo" ]; do
	next=
	for name in $todo; do
		grep -qx "$name" "$work/have" && continue
		fetch "$name"
		echo "$name" >>"$work/have"
		for file in *.deb; do
			next="$next $(missing_libraries "$file" | paste -sd ' ' -)"
			dpkg-deb -x "$file" "$dir"
			rm "$file"
		done
	done
	todo=$(echo "$next" | xargs)
done

missing=$(missing_files)
if [ -n "$missing" ]; then
	printf 'These are missing in %s:\n%s\n' "$dir" "$missing" >&2
	exit 1
fi
echo "$PACKAGES" >"$stamp"
echo "Unpacked into $dir: $(paste -sd ' ' "$work/have")"
