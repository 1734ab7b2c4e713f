#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# First process of a guest of the lab: network, then the agent.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=linux
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /run /tmp /root
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t debugfs debugfs /sys/kernel/debug
echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
ip link set lo up
for module in xen-evtchn xen-gntalloc xen-netfront; do
	modprobe "$module" || echo "lab: cannot load $module"
done
lab-net
echo "lab: starting the agent"
while :; do
	netback-agent guest
	sleep 1
done
