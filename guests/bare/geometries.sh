# The three geometries that our device and QEMU's are tried in: 128 MiB in zones of 4 MiB.
geometries=(conventional capacity limits)

# As `zvb create` takes them.
create_options() {
    local common="--size 128M --zone-size 4M --block-size 4096"
    case $1 in
        conventional) echo "$common --conventional 4" ;;
        capacity) echo "$common --zone-capacity 3M" ;;
        limits) echo "$common --conventional 2 --max-open 4 --max-active 6" ;;
    esac
}

# As null_blk's configuration takes them.
null_blk_attributes() {
    local common="size=128 zoned=1 zone_size=4 blocksize=4096 memory_backed=1"
    case $1 in
        conventional) echo "$common zone_nr_conv=4" ;;
        capacity) echo "$common zone_capacity=3" ;;
        limits) echo "$common zone_nr_conv=2 zone_max_open=4 zone_max_active=6" ;;
    esac
}
