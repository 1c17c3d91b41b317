# the guide's commands for file systems, as they stand
disk disk --size 1G --zone-size 8M --conventional 8 --max-open 32

scenario() {
    {
        echo 'set -eux'
        awk '/^```/ { on = ($0 == "```sh guest"); next } on' docs/guide/filesystems.md
    } >"$work/$id.guide"
    grep -q mkzonefs "$work/$id.guide"
    inside 300 <"$work/$id.guide"
}
