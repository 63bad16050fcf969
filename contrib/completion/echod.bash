# Completion of echod's command lines for bash. It needs no other package; with bash-completion, the
# command behind "echod add NAME --" is completed as it is at a prompt.
# shellcheck shell=bash

# What the words so far say: _echod_verb, the number of words behind it in _echod_names, and in
# _echod_where the options by which echod finds its daemon.
_echod_parse() {
	local word option=
	_echod_verb='' _echod_names=0 _echod_where=()
	for word; do
		if [[ -n $option ]]; then
			_echod_take "$option" "$word"
			option=
			continue
		fi
		case $word in
		--) ;;
		--*=*) _echod_take "${word%%=*}" "${word#*=}" ;;
		-[fPo]?*) _echod_take "${word:0:2}" "${word:2}" ;;
		-[fPolpTs] | --config | --pidfile | --set | --listen | --port | --timeout | --signal | \
			--user | --restart) option=$word ;;
		-*) ;;
		*)
			if [[ -z $_echod_verb ]]; then
				_echod_verb=$word
			else
				((++_echod_names))
			fi
			;;
		esac
	done
}

# Words are as they were typed: quotes go, a leading ~ is the home directory, and nothing is
# evaluated, for completing a line must not run what stands in it.
_echod_take() {
	local value=${2//[\\\"\']/}
	# shellcheck disable=SC2088 # a tilde as it was typed
	if [[ $value == '~/'* ]]; then value=$HOME/${value:2}; fi
	case $1:$value in
	-f:* | --config:*) _echod_where+=(-f "$value") ;;
	-P:* | --pidfile:*) _echod_where+=(-P "$value") ;;
	-o:pidfile=* | -o:control=* | --set:pidfile=* | --set:control=*) _echod_where+=(-o "$value") ;;
	esac
}

# _echod_offer PREFIX WORD...: those that begin with it. compgen -W would evaluate the words.
_echod_offer() {
	local prefix=$1 word
	shift
	for word; do
		if [[ $word == "$prefix"* ]]; then COMPREPLY+=("$(printf %q "$word")"); fi
	done
}

_echod_files() {
	compopt -o filenames 2>/dev/null
	mapfile -t COMPREPLY < <(compgen -f -- "$1")
}

# -T: a daemon that does not answer must not hold up the prompt.
_echod_services() {
	local names
	mapfile -t names < <("$1" "${_echod_where[@]}" ps -q -T 2 2>/dev/null </dev/null)
	_echod_offer "$2" "${names[@]}"
}

_echod_signals() {
	local names=(HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD
		CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS)
	if [[ $1 == SIG* ]]; then names=("${names[@]/#/SIG}"); fi
	_echod_offer "$1" "${names[@]}"
}

_echod_options() {
	local all=(--config --pidfile --set --quiet --version --help)
	local start=(--foreground --port --listen --verbose --print-ports --inetd)
	case $_echod_verb in
	'') all+=("${start[@]}" --json --timeout --signal --user --restart --defaults) ;;
	start) all+=("${start[@]}" --timeout) ;;
	check) all+=("${start[@]}" --defaults) ;;
	access) all+=("${start[@]}" --json) ;;
	ps | status) all+=(--json --timeout) ;;
	kill) all+=(--signal --timeout) ;;
	add) all+=(--user --restart --timeout) ;;
	*) all+=(--timeout) ;;
	esac
	_echod_offer "$1" "${all[@]}"
}

# _echod_value OPTION TEXT: its values; false when it is an option without one.
_echod_value() {
	case $1 in
	-f | --config | -P | --pidfile) _echod_files "$2" ;;
	-o | --set | -l | --listen | -p | --port | -T | --timeout) ;;
	-s | --signal) _echod_signals "$2" ;;
	--user) mapfile -t COMPREPLY < <(compgen -u -- "$2") ;;
	--restart) _echod_offer "$2" always on-failure never ;;
	*) return 1 ;;
	esac
}

# _echod_command FIRST: the command whose name is COMP_WORDS[FIRST].
_echod_command() {
	if declare -F _comp_command_offset >/dev/null; then
		_comp_command_offset "$1"
	elif declare -F _command_offset >/dev/null; then
		_command_offset "$1"
	elif [[ $COMP_CWORD -eq $1 && ${COMP_WORDS[COMP_CWORD]} != */* ]]; then
		mapfile -t COMPREPLY < <(compgen -c -- "${COMP_WORDS[COMP_CWORD]}")
	else
		_echod_files "${COMP_WORDS[COMP_CWORD]}"
	fi
}

_echod() {
	local words=() word current previous i _echod_verb _echod_names _echod_where
	COMPREPLY=()
	# readline cuts words at "=": they are put together again.
	for ((i = 0; i <= COMP_CWORD; i++)); do
		word=${COMP_WORDS[i]}
		if [[ $i -gt 1 && ($word == = || ${COMP_WORDS[i - 1]} == =) ]]; then
			words[-1]+=$word
		else
			words+=("$word")
		fi
	done
	current=${words[-1]}
	previous=${words[-2]}
	_echod_parse "${words[@]:1:${#words[@]}-2}"

	if [[ $_echod_verb == add ]]; then
		for ((i = 1; i < COMP_CWORD; i++)); do
			if [[ ${COMP_WORDS[i]} == -- ]]; then
				_echod_command $((i + 1))
				return
			fi
		done
	fi
	if [[ $current == --*=* ]]; then
		_echod_value "${current%%=*}" "${current#*=}"
		# Unless readline has cut it off, the option is a part of the word.
		if [[ ${COMP_WORDS[COMP_CWORD]} == --*=* ]]; then
			COMPREPLY=("${COMPREPLY[@]/#/${current%%=*}=}")
		fi
	elif _echod_value "$previous" "$current"; then
		:
	elif [[ $current == -* ]]; then
		_echod_options "$current"
	elif [[ -z $_echod_verb ]]; then
		_echod_offer "$current" start check access stop restart reload status ps kill add remove
	elif [[ $_echod_names -eq 0 && $_echod_verb == @(start|stop|kill|remove|access) ]]; then
		_echod_services "${words[0]}" "$current"
	elif [[ $_echod_names -eq 1 && $_echod_verb == add && -z $current ]]; then
		COMPREPLY=(--)
	fi
}

complete -F _echod echod
