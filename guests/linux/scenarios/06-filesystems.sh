# btrfs, f2fs, zoned xfs: filled, remounted; guest, server killed
vm=own
needs_in_guest "$here/guest/filesystems.sh"
disk btrfs --size 512M --zone-size 4M --zone-capacity 4M --max-open 24 --max-active 28
disk f2fs --size 512M --zone-size 8M --conventional 8 --max-open 8
# Metadata and log lie in the conventional zones, 320 MiB; the rest is its zoned part.
disk xfs --size 832M --zone-size 16M --conventional 20 --max-open 16 --max-active 20

# is_whole NAME: after a restart, with what that load had synced when NAME was killed.
is_whole() {
    {
        tell_synced "$1"
        printf 'each mounted\neach synced_is_whole\nequal "the trees" "$(each tree_sum)" "%s"\neach sound\neach unmounted\n' "$trees"
    } | inside_files 600
    echo "synced files are whole, after the $1 was killed"
}

scenario() {
    local trees system
    choose_systems btrfs f2fs xfs
    # A tree of files, an orderly end, and back.
    inside_files 600 <<'EOS'
each make
each mounted
each filled
EOS
    trees=$(inside_files <<<"each tree_sum")
    echo "the trees: $trees"
    vm_stop
    for system in $systems; do
        # btrfs and XFS write data by zone append.
        case $system:$(requests "$system") in
            f2fs:* | *:[1-9]*) note "$system, made and filled with a tree of files: $(requests "$system")" ;;
            *) echo "no appends from $system: $(requests "$system")"; return 1 ;;
        esac
    done
    vm_start
    inside_files 600 <<EOS
each mounted
equal "the trees after a shutdown" "\$(each tree_sum)" "$trees"
each sound
EOS

    # The guest dies under load.
    inside_files <<<"for system in \$systems; do in_background \$system load guest; done"
    until_synced guest 25
    vm_kill
    vm_start
    is_whole guest

    # The servers die under load; the guest can only hang then.
    inside_files <<<"each mounted; for system in \$systems; do in_background \$system load server; done"
    until_synced server 25
    for system in $systems; do server_kill "$system"; done
    vm_kill
    for system in $systems; do server_start "$system"; done
    vm_start
    is_whole server
}
