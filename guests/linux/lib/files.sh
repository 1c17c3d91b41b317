# File systems whose guest or server dies. What is done inside is in guest/filesystems.sh; $systems are the file systems
# that this guest can have.

files_prologue() { printf '. "$(command -v filesystems.sh)"\nsystems="%s"\n' "${systems-}"; }

# inside_files [SECONDS]: runs the script on standard input in the guest, where filesystems.sh is known.
inside_files() { { files_prologue; cat; } | inside "$@"; }

# choose_systems S...: those of them that this guest can have. Of the others it is noted why not.
choose_systems() {
    local system why
    systems=
    for system in "$@"; do
        why=$(inside_files <<<"missing $system")
        if [ -z "$why" ]; then systems+=" $system"; else note "$system: not here: $why"; fi
    done
    [ -n "$systems" ]
}

# until_synced NAME COUNT: waits until that load has synced so many files, in every file system.
until_synced() {
    local tenths system
    for system in $systems; do
        for ((tenths = 0; tenths < 3000; tenths++)); do
            [ "$(synced "$system" "$1" | wc -l)" -lt "$2" ] || continue 2
            vm_runs || break
            sleep 0.1
        done
        echo "the load in $system/$1 does not get on"
        return 1
    done
}

# synced S NAME: what the last guest that ran that load said was synced, as lines of sha256sum.
synced() {
    cat "$work"/console.*.log | tr -d '\r' | sed -nE "s,^synced ([0-9a-f]{64}  /tmp/fs/$1/$2/[0-9]+)\$,\1,p"
}

# tell_synced NAME: a script for `inside_files` that tells a new guest what the one before had synced.
tell_synced() {
    local system lines
    for system in $systems; do
        lines=$(synced "$system" "$1" | tail -15)
        [ "$(wc -l <<<"$lines")" = 15 ] || return 1
        printf "cat >/tmp/synced.%s <<'EOF'\n%s\nEOF\n" "$system" "$lines"
    done
}
