# Functions for what a scenario does inside the guest.
set -euo pipefail

# The block device behind the PCI function at this slot; nothing when the driver refused it.
block_device() {
    local found
    for found in /sys/bus/pci/devices/0000:00:"$1".0/virtio*/block/*; do
        [ ! -e "$found" ] || echo "/dev/${found##*/}"
    done
}

# equal WHAT GOT EXPECTED
equal() {
    [ "$2" = "$3" ] && return
    printf '%s: got "%s", expected "%s"\n' "$1" "$2" "$3"
    exit 1
}

# The command must fail.
fails() {
    if "$@" >/tmp/fails 2>&1; then
        cat /tmp/fails
        printf 'this succeeded and should not: %s\n' "$*"
        exit 1
    fi
}

# says TEXT: what failed last said this, among other things.
says() {
    grep -qF -- "$1" /tmp/fails && return
    printf 'this was not said: %s\nbut this:\n' "$1"
    cat /tmp/fails
    exit 1
}

queue() { cat "/sys/block/${disk##*/}/queue/$1"; }

# zone N FIELD: of the report, cond, wptr (from the zone's start), start, len, cap; numbers in decimal.
zone() {
    blkzone report -o "$(($1 * $(queue chunk_sectors)))" -c 1 "$disk" | sed -E 's/,|\[|\]//g; s/zcond: */zcond:/' |
        awk -v field="$2" '{
            for (i = 1; i <= NF; i++) {
                if ($i == "start:" || $i == "len" || $i == "cap" || $i == "wptr") at[$i] = $(i + 1)
                if ($i ~ /^zcond:/) { sub(/.*\(/, "", $i); sub(/\).*/, "", $i); at["cond"] = $i }
            }
            if (field == "cond") print at["cond"]; else print at[field == "start" ? "start:" : field]
        }' | while read -r value; do [ "$2" = cond ] && echo "$value" || echo $((value)); done
}

# conditions FIRST COUNT: of these zones, in one line.
conditions() {
    blkzone report -o "$(($1 * $(queue chunk_sectors)))" -c "$2" "$disk" |
        sed -E 's/.*zcond: *[0-9]+\(([a-z]+)\).*/\1/' | paste -sd' '
}
