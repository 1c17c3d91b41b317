# zoned disks of a host (null_blk): served, and told of alike
needs_in_guest "$zvb" "$here/guest/host-zoned"

scenario() {
    inside 1200 <<'EOS'
host-zoned
EOS
}
