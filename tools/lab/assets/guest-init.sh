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
# Ports that tests listen on are below these.
echo 60000 60999 > /proc/sys/net/ipv4/ip_local_port_range
ip link set lo up
# Some vifs may be left to a frontend in user space.
user=$(sed -n 's/.*lab\.user=\([0-9,]*\).*/\1/p' /proc/cmdline)
[ -z "$user" ] || echo 0 > /sys/bus/xen/drivers_autoprobe
for module in xen-evtchn xen-gntalloc xen-netfront; do
	modprobe "$module" || echo "lab: cannot load $module"
done
[ -z "$user" ] || for device in /sys/bus/xen/devices/vif-*; do
	case ,$user, in
	*,"${device##*-}",*) ;;
	*) echo "${device##*/}" > /sys/bus/xen/drivers/vif/bind ;;
	esac
done
lab-net
echo "lab: starting the agent"
while :; do
	netback-agent guest
	# A guest that leaves its domain has no agent meanwhile.
	while [ -e /run/leaving ]; do sleep 0.1; done
	sleep 1
done
