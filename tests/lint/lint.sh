#!/bin/sh
# Checks of the source tree that a compiler does not make: layers, documentation of every setting,
# shell scripts, manual pages. Run by "make check" and by hand; changes nothing.
#
#   srcdir  the root of the tree; default: where this script stands
#   ECHOD   an echod executable: its options and verbs must be in man/echod.8
set -u

case ${ECHOD:-} in
'' | /*) echod=${ECHOD:-} ;;
*) echod=$PWD/$ECHOD ;;
esac
cd "${srcdir:-$(dirname "$0")/../..}" || exit 1
if [ ! -f src/conf/keys.c ]; then
	echo "lint: $PWD is not the root of the source tree; set srcdir" >&2
	exit 1
fi
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
passed=0
failed=0

# finding NAME: $work/findings holds what the check NAME found, one finding a line; nothing: it passed.
finding() {
	if [ -s "$work/findings" ]; then
		failed=$((failed + 1))
		echo "FAILED  $1"
		sed 's/^/        /' "$work/findings"
	else
		passed=$((passed + 1))
		echo "ok      $1"
	fi
}

# need TOOL PACKAGE NAME: false, and the check NAME has failed, when the tool is missing.
need() {
	command -v "$1" >/dev/null 2>&1 && return 0
	echo "$1 is missing; on Debian: apt-get install $2" >"$work/findings"
	finding "$3"
	return 1
}

# ---- Layers --------------------------------------------------------------------------------------

# Prints "file:line folder kind path" for each #include below src/; kind is own ("...") or outside (<...>).
includes() {
	find src -name '*.[ch]' | LC_ALL=C sort | while IFS= read -r file; do
		awk -v file="$file" '
		/^[ \t]*#[ \t]*include([ \t"<]|$)/ {
			folder = file
			sub(/^src\//, "", folder)
			if (!sub(/\/.*/, "", folder))
				folder = "."
			path = $0
			sub(/^[ \t]*#[ \t]*include[ \t]*/, "", path)
			kind = path ~ /^"/ ? "own" : path ~ /^</ ? "outside" : "unknown"
			path = substr(path, 2)
			sub(/[">].*/, "", path)
			print file ":" FNR, folder, kind, path
		}' "$file"
	done
}

check_layers() {
	awk '
	BEGIN {
		may["base"] = " base "
		may["conf"] = " conf base "
		may["os"] = " os base "
		may["serve"] = " serve base "
		may["net"] = " net serve os conf base "
		may["run"] = " run net serve os conf base "
		may["cli"] = " cli run os conf base "
	}
	$2 == "." && $1 ~ /^src\/main\.c:/ { next }
	$2 == "." || !($2 in may) {
		print $1 ": the folder of this file has no layer; the layers are in tests/lint/lint.sh"
		next
	}
	$3 == "unknown" { print $1 ": an include is written \"folder/file.h\" or <file.h>"; next }
	$3 != "own" || $4 == "config.h" { next }
	$4 !~ /^[a-z]+\/[^\/]+$/ {
		print $1 ": \"" $4 "\" is not written as \"folder/file.h\", seen from src/"
		next
	}
	{
		folder = $4
		sub(/\/.*/, "", folder)
		if (index(may[$2], " " folder " ") == 0)
			print $1 ": src/" $2 "/ may not include \"" $4 "\": it may use" may[$2]
	}' "$work/includes" >"$work/findings"
	[ -s "$work/includes" ] || echo "src: no #include was found" >"$work/findings"
	finding "each folder includes only itself and the folders below it"
}

check_libraries() {
	awk '
	BEGIN {
		may["libconfig"] = " conf "
		may["libevent"] = " net run "
		may["jansson"] = " serve run cli "
	}
	$3 != "outside" { next }
	$4 ~ /^libconfig/ { library = "libconfig" }
	$4 ~ /^(event2\/|event\.h|evutil\.h|evhttp\.h|evdns\.h|evrpc\.h)/ { library = "libevent" }
	$4 ~ /^jansson/ { library = "jansson" }
	library != "" {
		seen[library] = 1
		if ($1 !~ /^src\/main\.c:/ && index(may[library], " " $2 " ") == 0)
			print $1 ": <" $4 ">: " library " may only be used in" may[library]
		library = ""
	}
	END {
		if (!("libconfig" in seen) || !("libevent" in seen))
			print "src: no #include of libconfig or of libevent was found: this check looks in the wrong place"
	}' "$work/includes" >"$work/findings"
	finding "each library is used only in its folders"
}

# ---- Settings ------------------------------------------------------------------------------------

# Prints the table of src/conf/keys.c: line, section, name, default, what is used without one; tabs
# between them. Rows that it does not understand go to $work/findings.
keys() {
	awk -v findings="$work/findings" '
	function trim(s) { gsub(/^[ \t\n]+|[ \t\n]+$/, "", s); return s }
	# A string of C, or NULL, as text.
	function text_of(s) {
		if (s == "NULL")
			return ""
		if (s !~ /^".*"$/)
			return "?"
		gsub(/"[ \t\n]+"/, "", s)
		return substr(s, 2, length(s) - 2)
	}
	function put(sections, name, initial, said,   section, i) {
		if (sections == "" || name !~ /^[a-z0-9_]+$/ || text_of(initial) == "?" || text_of(said) == "?" ||
		    (initial == "NULL") == (said == "NULL"))
			print "src/conf/keys.c:" row ": this row of conf_keys is not understood" >findings
		else
			for (i = split(sections, section, " "); i > 0; i--)
				print row "\t" section[i] "\t" name "\t" text_of(initial) "\t" text_of(said)
	}
	function end_of_row(   section, name) {
		section = name = args[1]
		sub(/\(.*/, "", section)
		sub(/^(PROTOCOL|PROGRAM)$/, "SERVICE", section)
		gsub(/.*\(|\)$/, "", name)
		if (n != 9 || args[1] !~ /^(GLOBAL|LOG|SERVICE|PROTOCOL|PROGRAM)\([a-z0-9_]+\)$/)
			section = ""
		put(section, name, args[6], args[7])
	}
	# LIMIT(...) stands for two rows.
	function end_of_limit() {
		put(n == 7 ? "GLOBAL SERVICE" : "", args[1], args[5], args[6])
	}
	!table {
		if ($0 ~ /conf_keys\[\] = \{/) {
			table = depth = 1
		}
		next
	}
	table == 1 {
		line = $0 "\n"
		for (i = 1; i <= length(line) && table == 1; i++) {
			c = substr(line, i, 1)
			if (comment) {
				if (substr(line, i, 2) == "*/") { comment = 0; i++ }
				continue
			}
			if (string) {
				arg = arg c
				if (c == "\\") arg = arg substr(line, ++i, 1)
				else if (c == "\"") string = 0
				continue
			}
			if (substr(line, i, 2) == "/*") { comment = 1; i++; continue }
			if (depth == 1 && substr(line, i, 6) == "LIMIT(") {
				limit = 1; depth = 2; n = parens = 0; arg = ""; row = FNR; i += 5
				continue
			}
			if (c == ")" && limit && parens == 0) {
				args[++n] = trim(arg)
				end_of_limit()
				limit = 0; depth = 1; arg = ""
				continue
			}
			if (c == "{" && depth++ == 1) { n = 0; arg = ""; row = FNR; continue }
			if (c == "}") {
				if (--depth == 0) { table = 2; continue }
				if (depth == 1) {
					if (trim(arg) != "")
						args[++n] = trim(arg)
					end_of_row()
					continue
				}
			}
			if (c == "\"") string = 1
			if (c == "(") parens++
			if (c == ")") parens--
			if (c == "," && depth == 2 && parens == 0) { args[++n] = trim(arg); arg = ""; continue }
			arg = arg c
		}
	}' src/conf/keys.c
}

check_keys() {
	: >"$work/findings"
	keys >"$work/keys"
	[ -s "$work/keys" ] || echo "src/conf/keys.c: no setting was found in conf_keys" >>"$work/findings"
	finding "the table of settings can be read ($(wc -l <"$work/keys") settings)"
}

# Values are compared without quotes, and lists as on the command line, with commas between.
plain_value='
	function plain(s) {
		if (gsub(/^[[(] *| *[])]$/, "", s) == 2)
			gsub(/"? *, *"?/, ",", s)
		gsub(/^"|"$/, "", s)
		return s
	}'

# Prints the settings of etc/echod.conf: line, section, name, value; tabs between them.
sample() {
	awk -v findings="$work/findings" "$plain_value"'
	BEGIN { section = "GLOBAL" }
	function wrong(text) { print "etc/echod.conf:" FNR ": " text >findings }
	/^[ \t]*$/ || /^[ \t]*#([ \t]|$)/ { next }
	!/^[ \t]*#/ { wrong("this is not commented out: the file as shipped would change something") }
	{
		setting = $0
		sub(/^[ \t]*#?/, "", setting)
	}
	setting == "log = {" && section == "GLOBAL" { section = "LOG"; next }
	setting == "};" && section == "LOG" { section = "GLOBAL"; next }
	setting == "services = (" && section == "GLOBAL" { section = "SERVICE"; next }
	setting == ");" && section == "SERVICE" { section = "GLOBAL"; next }
	(setting == "{" || setting == "}") && section == "SERVICE" { next }
	setting !~ /^[a-z0-9_]+ = .+;$/ {
		wrong("\"" setting "\" is not understood; a remark has a space behind its #")
		next
	}
	{
		name = value = setting
		sub(/ = .*/, "", name)
		sub(/^[a-z0-9_]+ = /, "", value)
		sub(/;$/, "", value)
		print FNR "\t" section "\t" name "\t" plain(value)
	}' etc/echod.conf
}

# Prints the settings of man/echod.conf.5: line, section, name, default; tabs between them.
manual() {
	awk "$plain_value"'
	function flush() {
		if (name != "")
			print line "\t" section "\t" name "\t" plain(value)
		name = value = ""
	}
	/^\.Sh / {
		flush()
		section = $2 ~ /^(GLOBAL|LOG|SERVICE)$/ && $3 == "SETTINGS" ? $2 : ""
	}
	section != "" && /^\.It Ic / { flush(); name = $3; line = FNR }
	name != "" && /^Default: .*\.$/ {
		value = $0
		gsub(/^Default: |\.$/, "", value)
		gsub(/\\\(dq/, "\"", value)
	}
	END { flush() }' man/echod.conf.5
}

# compare FILE LISTED SAID: every setting stands once in LISTED, the settings of FILE, and nothing else
# does; defaults agree. SAID: a default that depends on something must be told in the table's words.
compare() {
	awk -F '\t' -v file="$1" -v listed="$2" -v said="$3" '
	function full(section, name) {
		return (section == "LOG" ? "log." : section == "SERVICE" ? "services.NAME." : "") name
	}
	FILENAME != listed {
		where[$2, $3] = $1
		initial[$2, $3] = $4
		used[$2, $3] = $5
		order[++count] = $2 SUBSEP $3
		next
	}
	!(($2, $3) in where) { print file ":" $1 ": there is no setting " full($2, $3) " in src/conf/keys.c"; next }
	($2, $3) in seen { print file ":" $1 ": " full($2, $3) " stands here a second time" }
	{
		seen[$2, $3] = 1
		expected = initial[$2, $3]
		if (expected == "" && said)
			expected = used[$2, $3]
		if (expected != "" && $4 != expected)
			print file ":" $1 ": the default of " full($2, $3) " is \"" expected \
				"\" (src/conf/keys.c:" where[$2, $3] "), not \"" $4 "\""
	}
	END {
		for (i = 1; i <= count; i++)
			if (!(order[i] in seen)) {
				split(order[i], part, SUBSEP)
				print file ": the setting " full(part[1], part[2]) " (src/conf/keys.c:" \
					where[order[i]] ") is missing"
			}
	}' "$work/keys" "$2" >>"$work/findings"
	[ -s "$2" ] || echo "$1: no setting was found" >>"$work/findings"
}

check_sample() {
	: >"$work/findings"
	sample >"$work/sample"
	compare etc/echod.conf "$work/sample" 0
	finding "etc/echod.conf shows every setting with its default, commented out"
}

check_manual() {
	: >"$work/findings"
	manual >"$work/manual"
	compare man/echod.conf.5 "$work/manual" 1
	finding "man/echod.conf.5 describes every setting with its default"
}

# ---- Command line --------------------------------------------------------------------------------

# Prints the options and verbs that the help shows, one a line. A verb stands behind "echod" on a line of
# usage, perhaps with others ("stop | restart"), or first on an indented line with its description behind
# two spaces.
help_words() {
	awk '
	{
		rest = " " $0
		while (match(rest, /[ \t,|\/(\[]--?[A-Za-z][A-Za-z-]*/)) {
			print substr(rest, RSTART + 1, RLENGTH - 1)
			rest = substr(rest, RSTART + RLENGTH)
		}
	}
	/^ ? ? ? ? ? ? ? ?[a-z]+( [^ ]+)*  +[^ ]/ && /^ / && $1 != "echod" { print $1 }
	match($0, /^([Uu]sage:|[ \t]+(or:)?)[ \t]*echod[ \t]/) {
		rest = substr($0, RSTART + RLENGTH)
		sub(/[ \t][ \t].*/, "", rest)
		gsub(/\[[^]]*\]/, "", rest)
		gsub(/[ \t]*\|[ \t]*/, "|", rest)
		sub(/^[ \t]+/, "", rest)
		sub(/[ \t].*/, "", rest)
		count = split(rest, word, "|")
		for (i = 1; i <= count; i++)
			if (word[i] ~ /^[a-z]+$/)
				print word[i]
	}' "$1" | LC_ALL=C sort -u
}

# Prints the options and verbs that man/echod.8 has as items of its lists, one a line.
manual_words() {
	awk '
	/^\.It / {
		for (i = 2; i < NF; i++) {
			if ($i == "Fl" && $(i + 1) ~ /^(\\?-)?[A-Za-z]/) {
				word = $(i + 1)
				sub(/^\\/, "", word)
				print "-" word
			}
			if ($i == "Cm")
				print $(i + 1)
		}
	}' man/echod.8 | LC_ALL=C sort -u
}

check_help() {
	: >"$work/findings"
	if "$echod" --help >"$work/help" 2>"$work/help.err"; then
		help_words "$work/help" >"$work/help.words"
		manual_words >"$work/manual.words"
		grep -q '^-' "$work/help.words" || echo "$echod --help: no option was found" >>"$work/findings"
		grep -q '^[a-z]' "$work/help.words" || echo "$echod --help: no verb was found" >>"$work/findings"
		LC_ALL=C comm -23 "$work/help.words" "$work/manual.words" |
			sed 's/.*/man\/echod.8: & of echod --help is missing/' >>"$work/findings"
	else
		echo "$echod --help: it failed; $(cat "$work/help.err")" >>"$work/findings"
	fi
	finding "man/echod.8 describes every option and verb of echod --help"
}

# ---- Scripts and manual pages --------------------------------------------------------------------

check_scripts() {
	need shellcheck shellcheck "shell scripts" || return
	{
		find contrib tests -name '*.sh' -type f -o -name '*.bash' -type f
		find contrib/init.d contrib/default -type f
		for script in bootstrap .ci/run; do
			[ ! -f "$script" ] || echo "$script"
		done
	} 2>/dev/null | LC_ALL=C sort -u >"$work/scripts"
	while IFS= read -r script; do
		case $script in
		# Variables for the boot script, which is the one to use them.
		contrib/default/*) shellcheck -f gcc -s sh -e SC2034 "$script" ;;
		*) shellcheck -f gcc -x "$script" ;;
		esac >"$work/findings" 2>&1
		finding "shellcheck $script"
	done <"$work/scripts"
	: >"$work/findings"
	grep -q '^contrib/init.d/echod$' "$work/scripts" ||
		echo "contrib/init.d/echod: the boot script is missing" >"$work/findings"
	finding "shell scripts were found ($(wc -l <"$work/scripts"))"
}

check_manual_pages() {
	need mandoc mandoc "manual pages" || return
	for page in man/echod.8 man/echod.conf.5; do
		mandoc -Tlint -W warning "$page" >"$work/findings" 2>&1 || [ -s "$work/findings" ] ||
			echo "$page: mandoc failed" >"$work/findings"
		finding "mandoc $page"
	done
}

includes >"$work/includes"
check_layers
check_libraries
check_keys
check_sample
check_manual
if [ -n "$echod" ]; then
	check_help
else
	echo "not run man/echod.8 and echod --help: ECHOD names no executable"
fi
check_scripts
check_manual_pages

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
