# the kernel shows our model, geometry and limits
disk disk --size 288M --zone-size 16M --zone-capacity 12M --conventional 2 --max-open 6 --max-active 8 \
    --max-append 64K --block-size 4096

scenario() {
    inside <<'EOS'
equal model "$(queue zoned)" host-managed
equal zones "$(queue nr_zones)" 18
equal "zone sectors" "$(queue chunk_sectors)" 32768
equal "open limit" "$(queue max_open_zones)" 6
equal "active limit" "$(queue max_active_zones)" 8
equal "append limit" "$(queue zone_append_max_bytes)" 65536
equal "write granularity" "$(queue zone_write_granularity)" 4096
equal "cache, to be flushed" "$(queue write_cache)" "write back"
equal "block size" "$(blockdev --getss "$disk")" 4096
equal size "$(blockdev --getsize64 "$disk")" $((288 << 20))
equal queues "$(ls -d /sys/block/${disk##*/}/mq/* | wc -l)" "$vcpus"
equal zones "$(blkzone report "$disk" | wc -l)" 18
equal conventional "$(conditions 0 2)" "nw nw"
equal "sequential" "$(conditions 2 2)" "em em"
equal capacity "$(zone 5 cap)" 24576
equal length "$(zone 5 len)" 32768
blkzone report "$disk"
EOS
}
