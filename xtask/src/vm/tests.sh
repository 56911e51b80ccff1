# SPDX-License-Identifier: Apache-2.0
# The steps of the suite "vm".

devices() {
    ip link set lo up &&
        ip link add nsm-dummy type dummy && ip link set nsm-dummy up &&
        ip link add link nsm-dummy name nsm-vlan type vlan id 100 && ip link set nsm-vlan up &&
        ip -details link show nsm-vlan | grep --quiet 'vlan protocol 802.1Q id 100' &&
        ip link del nsm-vlan && ip link del nsm-dummy
}

export -f devices
step devices 30 bash -c devices
# Where the kernel is not used after all, tests fail.
export NSM_WIREGUARD_TEST_KERNEL=1
# Our own engine alone is tested outside, where hundreds of tunnels at once are not too much for their patience, too.
step engines 420 "$memory/programs/wireguard" --color never --skip many:: kernel
for wires in vxlan wireguard; do
    # What thousands of wires leave is counted outside: here one takes ten times as long.
    step "wires by $wires" 600 "$memory/programs/netns" --color never --skip soak "$wires"
done
