# Completion of echod's command lines for fish.

# The words in front of the one that is being typed, one a line, sorted out: "verb WORD", "name WORD",
# "command" when the command behind "--" has begun, and "where OPTION", "where VALUE" for the options by
# which echod finds its daemon. Nothing is evaluated: completing a line must not run what stands in it.
function __echod_parse
    set -l option
    set -l verb
    set -l tokens (commandline -opc)
    set -e tokens[1]
    for token in $tokens
        if test -n "$option"
            __echod_take $option $token
            set option
            continue
        end
        switch $token
            case --
                test "$verb" = add; and echo command
            case '--*=*'
                __echod_take (string split -m 1 = -- $token)
            case -f -P -o -l -p -T -s --config --pidfile --set --listen --port --timeout --signal --user \
                --restart
                set option $token
            case '-f*' '-P*' '-o*'
                __echod_take (string sub -l 2 -- $token) (string sub -s 3 -- $token)
            case '-*'
            case '*'
                if test -z "$verb"
                    set verb $token
                    echo verb $token
                else
                    echo name $token
                end
        end
    end
end

function __echod_take -a option value
    set value (string replace -r '^~/' "$HOME/" -- $value)
    switch $option
        case -f --config
            printf 'where %s\n' -f $value
        case -P --pidfile
            printf 'where %s\n' -P $value
        case -o --set
            string match -qr '^(pidfile|control)=' -- $value
            and printf 'where %s\n' -o $value
    end
end

# True while there is no verb, or when it is one of these.
function __echod_takes
    set -l parsed (__echod_parse)
    contains command $parsed; and return 1
    set -l verb (string replace -f 'verb ' '' -- $parsed)
    test -z "$verb"; or contains -- $verb $argv
end

# True when the verb is one of these and has `count` names behind it.
function __echod_has_names -a count
    set -l parsed (__echod_parse)
    contains command $parsed; and return 1
    set -l verb (string replace -f 'verb ' '' -- $parsed)
    test -n "$verb"; and contains -- $verb $argv[2..-1]
    and test (count (string match 'name *' -- $parsed)) -eq $count
end

function __echod_needs_verb
    not string match -q 'verb *' -- (__echod_parse)
end

function __echod_in_command
    contains command (__echod_parse)
end

# -T: a daemon that does not answer must not hold up the prompt.
function __echod_services
    set -l echod (commandline -opc)[1]
    $echod (string replace -f 'where ' '' -- (__echod_parse)) ps -q -T 2 2>/dev/null </dev/null
end

function __echod_signals
    set -l names HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT \
        STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS
    if string match -qr '(^|=)SIG' -- (commandline -ct)
        printf 'SIG%s\n' $names
    else
        printf '%s\n' $names
    end
end

function __echod_command
    set -l tokens (commandline -opc)
    set -e tokens[1..(contains -i -- -- $tokens)]
    complete -C (string join ' ' -- (string escape -- $tokens) (commandline -ct))
end

complete -c echod -f
complete -c echod -n __echod_in_command -a '(__echod_command)'

complete -c echod -n __echod_needs_verb -a start -d 'Start the daemon, or a service that is stopped'
complete -c echod -n __echod_needs_verb -a check -d 'Read the configuration and say what is wrong'
complete -c echod -n __echod_needs_verb -a access -d 'Say which rule decides for a client'
complete -c echod -n __echod_needs_verb -a stop -d 'Stop the daemon, or a service'
complete -c echod -n __echod_needs_verb -a restart -d 'Start anew in place'
complete -c echod -n __echod_needs_verb -a reload -d 'The same as restart'
complete -c echod -n __echod_needs_verb -a status -d 'Say whether it runs, and what it does'
complete -c echod -n __echod_needs_verb -a ps -d 'List the processes of all services'
complete -c echod -n __echod_needs_verb -a kill -d 'Send a signal to the processes of a service'
complete -c echod -n __echod_needs_verb -a add -d 'Run and supervise a command'
complete -c echod -n __echod_needs_verb -a remove -d 'Stop and forget what add has brought'

complete -c echod -n '__echod_has_names 0 start stop kill remove access' -a '(__echod_services)' -d Service
complete -c echod -n '__echod_has_names 1 add' -a -- -d 'The command follows'

complete -c echod -s f -l config -r -F -d 'Read this configuration file'
complete -c echod -s P -l pidfile -r -F -d 'The pidfile, which says which daemon is meant'
complete -c echod -s o -l set -x -d 'A setting'
complete -c echod -s q -l quiet -d 'Log less; say nothing when a verb succeeds'
complete -c echod -s V -l version -d 'Print the version'
complete -c echod -s h -l help -d 'Print help'
complete -c echod -n '__echod_takes start check access' -s F -l foreground -d 'Stay in the foreground'
complete -c echod -n '__echod_takes start check access' -s p -l port -x -d 'Port of the built-in service'
complete -c echod -n '__echod_takes start check access' -s l -l listen -x -d 'Address of the built-in service'
complete -c echod -n '__echod_takes start check access' -s v -l verbose -d 'Log more'
complete -c echod -n '__echod_takes start check' -s F -l foreground -d 'Stay in the foreground'
complete -c echod -n '__echod_takes start check' -s p -l port -x -d 'Port of the built-in service'
complete -c echod -n '__echod_takes start check' -s l -l listen -x -d 'Address of the built-in service'
complete -c echod -n '__echod_takes start check' -s v -l verbose -d 'Log more'
complete -c echod -n '__echod_takes start check' -l print-ports -d 'Print where it listens, once it serves'
complete -c echod -n '__echod_takes start check' -l inetd -d 'Serve what is on descriptor 0'
complete -c echod -n '__echod_takes check' -l defaults -d 'Print every setting with its default'
complete -c echod -n '__echod_takes access ps status' -l json -d 'Answer in JSON'
complete -c echod -n '__echod_takes start stop restart reload status ps kill add remove' \
    -s T -l timeout -x -d 'How long to wait'
complete -c echod -n '__echod_takes kill' -s s -l signal -x -a '(__echod_signals)' -d 'The signal'
complete -c echod -n '__echod_takes add' -l user -x -a '(__fish_complete_users)' \
    -d 'Run the command as this user'
complete -c echod -n '__echod_takes add' -l restart -x -a 'always on-failure never' \
    -d 'When to run it again'
