# A cell: all chosen scenarios on one kernel with one number of vCPUs. Most share one guest, each with disks of
# its own; those that stop guests and servers (`vm=own` in their file) have a guest to themselves.

# result ID STATUS MILLISECONDS: the line, and for the summary.
result() {
    local word=ok
    [ "$2" = 0 ] || word=FAILED
    [ "$2" = 77 ] && word="not here"
    say "$(printf 'Linux %-5s %s vCPU  %3s  %-58s %-8s %6.1f s' "$kernel" "$vcpus" "$1" "${title[$1]}" \
        "$word" "$(($3))e-3")"
    [ ! -e "$cell/$1.notes" ] || say "$(sed 's/^/    note: /' "$cell/$1.notes")"
    echo "$2 $3" >"$cell/$1.result"
    [ "$2" = 0 ] || explain "$1" "$2"
}

# note TEXT: what a scenario has seen, for its lines in the output.
note() { echo "$*" >>"$cell/$id.notes"; }

# What is known of a failure.
explain() {
    local transcript=$cell/$1.transcript log
    if [ "$2" = 77 ]; then say "    $(tail -1 "$transcript")"; return; fi
    {
        echo "  -- what scenario $1 said:"
        tail -60 "$transcript"
        for log in "$work/$1".*.log; do
            [ -s "$log" ] || continue
            echo "  -- the server's log ($(basename "$log")):"
            tail -10 "$log"
        done
        echo "  -- the guest's log:"
        # A guest that did not start has none.
        log=$(ls -t "$work"/console.*.log 2>/dev/null | sed 1q || true)
        # From its first process on, if it came as far.
        [ ! -s "$log" ] || awk '/Run .init/ { delete line; n = 0; next } { line[n++] = $0 }
            END { for (i = n > 40 ? n - 40 : 0; i < n; i++) print line[i] }' "$log" | tr -d '\r'
    } | sed 's/^/    /' >&9
}

now() { echo $((${EPOCHREALTIME/./} / 1000)); }

# The kernel has nothing to complain about, other than what a scenario provoked. Linux 6.12 counts the space of a log of
# btrfs twice when it replays it, and warns when that makes more than a zone: seen on null_blk, too (docs/interop.md).
counted_twice='fs/btrfs/free-space-cache\.c:[0-9]+ __btrfs_add_free_space_zoned'
console_clean() {
    ! grep -hE '\] (BUG|WARNING): |Oops|Kernel panic|blocked for more than' "$work"/console.*.log |
        grep -vE "$counted_twice"
}

# The whole life of scenarios that share a guest. (In a process of its own, which ends everything.)
shared_guest() {
    local id started status
    work=$cell/shared
    enter
    for id in "$@"; do . "${files[$id]}"; done
    make_initrd
    started=$(now)
    vm_start >"$work/start" 2>&1 || {
        for id in "$@"; do cp "$work/start" "$cell/$id.transcript"; result "$id" 1 0; done
        return
    }
    say "$(printf 'Linux %-5s %s vCPU  booted %s in %.1f s' "$kernel" "$vcpus" "$(cat "$parts/linux-$kernel/version")" \
        "$(($(now) - started))e-3")"
    for id in "$@"; do
        started=$(now)
        (
            set -euo pipefail
            . "${files[$id]}"
            scenario
            take_reports
        ) >"$cell/$id.transcript" 2>&1 &
        wait $! && status=0 || status=$?
        if [ "$status" != 0 ]; then
            result "$id" "$status" $(($(now) - started))
        else
            echo $(($(now) - started)) >"$work/$id.passed"
        fi
        vm_runs || break
    done
    { vm_stop && console_clean; } >"$work/end" 2>&1 && status=0 || status=$?
    for id in "$@"; do
        [ ! -e "$cell/$id.result" ] || continue
        [ -e "$work/$id.passed" ] || { echo "the guest was gone before its turn" >"$cell/$id.transcript"; result "$id" 1 0; continue; }
        cat "$work/end" >>"$cell/$id.transcript"
        (
            set -euo pipefail
            unset -f afterwards
            . "${files[$id]}"
            at_the_end
            exit $status
        ) >>"$cell/$id.transcript" 2>&1 &
        wait $! && result "$id" 0 "$(cat "$work/$id.passed")" || result "$id" 1 "$(cat "$work/$id.passed")"
    done
}

own_guest() {
    local started
    id=$1
    work=$cell/own-$id
    started=$(now)
    (
        enter
        set -euo pipefail
        . "${files[$id]}"
        make_initrd
        vm_start
        scenario
        if vm_runs; then
            take_reports
            vm_stop
        fi
        at_the_end
        console_clean
    ) >"$cell/$id.transcript" 2>&1 &
    hand_down $!
    wait $! && result "$id" 0 $(($(now) - started)) || result "$id" $? $(($(now) - started))
}

# This shell has started no guest itself, and only passes on that it is to end.
hand_down() {
    # shellcheck disable=SC2064 # the process is known now
    trap "trap '' INT TERM HUP; kill -TERM $1 2>/dev/null; wait; exit 130" INT TERM HUP
}

# Once the guest is gone.
at_the_end() {
    compare_reports
    if declare -F afterwards >/dev/null; then afterwards; fi
}

enter() {
    boots=0
    mkdir -p "$work"
    trap vm_clean EXIT
    trap 'exit 130' INT TERM HUP
}

run_cell() {
    local id mine=() shared=()
    kernel=$1 vcpus=$2 cell=$results/$1-$2
    mkdir -p "$cell"
    for id in "${ids[@]}"; do elsewhere "$id" "$kernel" "$vcpus" || mine+=("$id"); done
    for id in "${mine[@]}"; do [ "${vm[$id]}" = own ] || shared+=("$id"); done
    [ ${#shared[@]} -eq 0 ] || { (shared_guest "${shared[@]}") & hand_down $!; wait $! || true; }
    for id in "${mine[@]}"; do [ "${vm[$id]}" != own ] || { (own_guest "$id") & hand_down $!; wait $! || true; }; done
}
