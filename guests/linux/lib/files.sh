# Files on a file system whose guest or server dies. A scenario says what to do, as text for `inside`:
#
#   $mounted   mounts $disk at /tmp/fs
#   $checked   finds the mounted file system sound

tree_sums='cd /tmp/fs/tree && find . -type f -exec sha256sum {} + | sort -k2 | sha256sum'

# load NAME: writes files without end; once one is synced, that and its checksum go to the console, which
# outlives the guest.
load() {
    inside <<EOS
$mounted
(
    mkdir -p /tmp/fs/$1
    for ((i = 0; i < 100000; i++)); do
        file=/tmp/fs/$1/\$i
        head -c \$((RANDOM * 12)) /dev/urandom >\$file
        sync \$file
        sum=\$(sha256sum \$file | cut -c1-64)
        printf '\nsynced %s %s\n' "\$file" "\$sum" >/dev/console
        # Room for more, and zones to be reclaimed.
        [ \$i -lt 20 ] || rm /tmp/fs/$1/\$((i - 20))
    done
) </dev/null >/dev/null 2>&1 &
EOS
}

# until_synced NAME COUNT: waits until that load has synced so many files.
until_synced() {
    local seconds
    for ((seconds = 0; seconds < 300; seconds++)); do
        [ "$(synced "$1" | wc -l)" -lt "$2" ] || return 0
        vm_runs || break
        sleep 1
    done
    echo "the load in $1 does not get on"
    return 1
}

# What the last guest that ran that load said was synced.
synced() {
    cat "$work"/console.*.log | tr -d '\r' | grep -E "^synced /tmp/fs/$1/[0-9]+ [0-9a-f]{64}\$" || true
}

# check_synced NAME TREE: the last synced files are there and whole, those that the load cannot have removed,
# and so is the tree with these sums.
check_synced() {
    local lines
    lines=$(synced "$1" | tail -15)
    [ "$(wc -l <<<"$lines")" = 15 ]
    inside <<EOS
$mounted
while read -r _ file sum; do
    equal "\$file" "\$(sha256sum "\$file" | cut -c1-64)" "\$sum"
done <<'EOF2'
$lines
EOF2
$checked
equal "the tree" "\$($tree_sums)" "$2"
umount /tmp/fs
EOS
    echo "synced files are whole, after the $1 was killed"
}
