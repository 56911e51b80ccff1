# SPDX-License-Identifier: Apache-2.0
# Inside the virtual machine: bash vm.sh <folder shared with the machine outside> [option]...
# Runs the steps that lie there, which see the options, and leaves "status" once they ran: the number of those that
# failed.
set -u -o pipefail
shared=$1
shift
memory=/mnt
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
failed=0

# step <name> <seconds> <command>...
step() {
    local name=$1 limit=$2 began=$SECONDS status=0
    shift 2
    echo "-- $name"
    timeout --kill-after=10 "$limit" "$@" || status=$?
    # What was stopped may have left a line open.
    echo
    case $status in
        0) echo "-- $name: ok after $((SECONDS - began)) s" ;;
        124 | 137) echo "-- $name: FAILED, not done after $limit s" ;;
        *) echo "-- $name: FAILED with status $status after $((SECONDS - began)) s" ;;
    esac
    [ $status = 0 ] || failed=$((failed + 1))
}

# Everything is run from memory: the files of the machine outside are slow, and each start reads them again.
copy() {
    mount -t tmpfs -o mode=1777 nsm "$memory" && mkdir "$memory/programs" "$memory/system" &&
        cp "$shared"/programs/* "$memory/programs/" || return
    local program file copy count=0
    for program in bash cat ip mount nsenter ping setpriv sh ss timeout unshare wg wireguard-go; do
        file=$(type -P "$program") || { echo "there is no $program"; return 1; }
        echo "$file"
        # Nothing for programs that need no libraries.
        ldd "$file" | grep --only-matching '/[^ ]*' || true
    done | xargs readlink --canonicalize | sort --unique | while read -r file; do
        count=$((count + 1))
        copy=$memory/system/$count
        cp "$file" "$copy" && mount --bind "$copy" "$file" || return
    done
}

modules() {
    local module
    for module in wireguard vxlan 8021q dummy veth bridge tun; do
        modprobe "$module" || { echo "the kernel has no module $module"; return 1; }
    done
}

export -f copy modules
export shared memory TMPDIR=$memory

echo "-- the kernel is $(uname -r), with $(nproc) CPUs"
step copy 120 bash -o pipefail -c copy
step modules 60 bash -c modules
. "$shared/steps.sh"

dmesg > "$shared/dmesg"
# Folders of tests that passed are gone.
find "$memory" -path "$memory/nsm-*" -name '*.log' -printf '%P\n' | tar -C "$memory" -cf - -T - | tar -C "$shared" -xf -
echo "$failed" > "$shared/status"
exit $((failed > 0))
