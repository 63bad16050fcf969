# What contrib/try.sh, contrib/check.sh and others share; sourced by them with $top set.
# shellcheck shell=sh

# Both lists are used by the scripts; $top is theirs.
# shellcheck disable=SC2034,SC2154
BUILD_PACKAGES="gcc libc6-dev make autoconf automake pkg-config libevent-dev libconfig-dev libjansson-dev"
# shellcheck disable=SC2034
TEST_PACKAGES="libcmocka-dev python3 python3-pytest python3-pytest-xdist python3-pytest-timeout mandoc
	openssl shellcheck netbase procps iproute2 util-linux strace valgrind zsh fish python3-matplotlib"

# Nothing is there: so no installed echod, and no configuration of one, is mixed up with the tested one.
# shellcheck disable=SC2034
CHECK_PREFIX=/nonexistent/echod

say() {
	printf '\n== %s ==\n' "$*"
}

installed() {
	dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'install ok installed'
}

# need_packages "NAMES": install those that are missing, with apt.
need_packages() {
	missing=
	for package in $1; do
		installed "$package" || missing="$missing $package"
	done
	if [ -z "$missing" ]; then
		echo "All is there."
		return
	fi
	echo "Missing:$missing"
	root=
	if [ "$(id -u)" -ne 0 ]; then
		if ! command -v sudo >/dev/null 2>&1; then
			echo "Install them as root, then run this again: apt-get install$missing" >&2
			exit 1
		fi
		root=sudo
	fi
	# shellcheck disable=SC2086
	$root apt-get update -qq
	# shellcheck disable=SC2086
	$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
		$missing >/dev/null
	echo "Installed."
}

# newer A B: A was changed after B was made, or there is no B.
newer() {
	[ ! -e "$2" ] || [ -n "$(find "$1" -newer "$2")" ]
}

if [ ! -w "$top" ]; then
	echo "Cannot write in $top: clone it as the user who runs this." >&2
	exit 1
fi

# configure_in DIR WORDS...: make ./configure if need be, and run it in DIR if its words have changed.
configure_in() {
	dir=$1
	shift
	# shellcheck disable=SC2154
	if newer "$top/configure.ac" "$top/configure" || newer "$top/Makefile.am" "$top/Makefile.in"; then
		"$top/bootstrap" >/dev/null 2>"$top/bootstrap.log" || {
			cat "$top/bootstrap.log" >&2
			exit 1
		}
		rm -f "$top/bootstrap.log"
	fi
	# autoconf refuses to build elsewhere as long as the sources are configured in place.
	if [ -e "$top/config.status" ]; then
		echo "This clone was configured in place: run 'make distclean' in $top first." >&2
		exit 1
	fi
	mkdir -p "$dir"
	if [ "$(cat "$dir/configured-with" 2>/dev/null)" != "${CC:-} $*" ] ||
		newer "$top/configure" "$dir/config.status"; then
		(cd "$dir" && "$top/configure" --quiet "$@")
		echo "${CC:-} $*" >"$dir/configured-with"
	fi
}

# build_in DIR
build_in() {
	make -C "$1" --no-print-directory -s -j "$(nproc)" all
}

# install_from DIR [DESTDIR]: into the prefix that was configured, below DESTDIR.
install_from() {
	make -C "$1" --no-print-directory -s install DESTDIR="${2:-}" >"$1/install.log" 2>&1 || {
		cat "$1/install.log" >&2
		exit 1
	}
}
