# zones of no power of two: refused by Linux, served to us
disk disk --size 120M --zone-size 12M --zone-capacity 10M
unseen disk

scenario() {
    inside <<'EOS'
equal "a block device" "$disk" ""
said=$(dmesg | grep -i 'virtio_blk.*zone')
echo "$said"
case $said in
    *"power of two"*) ;;
    *) echo "that does not say why"; exit 1 ;;
esac
EOS
}

afterwards() {
    local socket=(--socket-path "$(socket disk)")
    head -c 15M /dev/urandom >"$work/data"
    "$zvb" append "${socket[@]}" --zone 3 --quiet <"$work/data"
    "$zvb" read "${socket[@]}" --zone 3 --count 2 | cmp - "$work/data"
    "$zvb" finish "${socket[@]}" --zone 4 --quiet
    "$zvb" report "${socket[@]}" --format blkzone | sed -n 4,6p >"$work/report"
    cat "$work/report"
    [ "$(sed -E 's/.*zcond: *[0-9]+\((..)\).*/\1/' "$work/report" | paste -sd' ')" = "fu fu em" ]
    rm "$work/data"
}
