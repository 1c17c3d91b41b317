# blocks of 512 bytes; 2048 zones, past sector 2^32
# (SeaBIOS drives a disk with such blocks, too: a guest that starts has got past that.)
disk disk --size 128M --zone-size 8M --zone-capacity 6M --conventional 1 --block-size 512
disk large --size 4T --zone-size 2G

scenario() {
    local refused
    inside <<'EOS'
head -c 6M /dev/urandom >/tmp/data
# put ZONE BLOCK COUNT: blocks of 512 bytes of the data, from where they belong in the zone.
put() {
    dd if=/tmp/data of="$disk" bs=$(($3 * 512)) count=1 skip=$(($2 * 512)) seek=$((($1 * 16384 + $2) * 512)) \
        iflag=skip_bytes oflag=direct,seek_bytes conv=notrunc status=none
}
equal "block size" "$(blockdev --getss "$disk")" 512
equal "write granularity" "$(queue zone_write_granularity)" 512
fails put 2 3 1
equal "an empty zone after a refused write" "$(conditions 2 1) $(zone 2 wptr)" "em 0"
put 1 0 1
equal pointer "$(zone 1 wptr)" 1
put 1 1 2
put 1 3 8
equal pointer "$(zone 1 wptr)" 11
fails put 1 12 1
fails put 1 10 1
equal "pointer after refused writes" "$(zone 1 wptr)" 11
put 1 11 12276
equal "a block is left" "$(conditions 1 1) $(zone 1 wptr)" "oi 12287"
put 1 12287 1
equal "full at its capacity" "$(conditions 1 1)" fu
cmp /tmp/data <(dd if="$disk" bs=6M count=1 skip=8M iflag=direct,skip_bytes status=none)

disk=$large
equal zones "$(queue nr_zones)" 2048
equal "zone sectors" "$(queue chunk_sectors)" 4194304
for zone in 1023 1024 2046 2047; do
    dd if=/tmp/data of="$disk" bs=64k count=1 seek=$((zone * 32768)) oflag=direct conv=notrunc status=none
    equal "pointer of zone $zone" "$(zone $zone wptr)" 128
    cmp -n 65536 /tmp/data <(dd if="$disk" bs=64k count=1 skip=$((zone * 32768)) iflag=direct status=none)
done
blkzone reset -o $((2046 * 4194304)) -c 1 "$disk"
equal "one of them reset" "$(conditions 2045 3)" "em em oi"
EOS
    refused=$(with_errors disk write)
    [ "$refused" -ge 1 ] || { statistics disk; echo "no write off the pointer has reached the disk"; return 1; }
}
