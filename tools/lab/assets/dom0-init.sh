#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# First process of the lab's dom0: brings up Xen's daemons and a bridge, then the agent.
export PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/xen/bin HOME=/root TERM=linux
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /run /tmp /root
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
# A tracepoint is then switched on without rewriting the scheduler's code: see mishaps.rs.
echo 0 > /sys/kernel/tracing/options/record-cmd
mkdir -p /run/lock /run/xen /run/xenstored /var/lib/xen /var/lib/xenstored /var/log/xen/console
for module in xen-evtchn xen-gntdev xen-gntalloc xen-privcmd xenfs bridge; do
	modprobe "$module" || echo "lab: cannot load $module"
done
ip link set lo up
if mount -t xenfs xenfs /proc/xen; then
	# Guests that write often are held back, but for this one.
	hasty=$(sed -n 's/.*lab\.hasty=\([0-9]*\).*/\1/p' /proc/cmdline)
	xenstored --pid-file /run/xenstored.pid ${hasty:+--priv-domid "$hasty"} ||
		echo "lab: xenstored failed"
	xen-init-dom0 || echo "lab: xen-init-dom0 failed"
	xenconsoled --log=guest --pid-file=/run/xenconsoled.pid || echo "lab: xenconsoled failed"
else
	echo "lab: this kernel does not run on Xen"
fi
echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
# Ports that tests listen on are below these.
echo 60000 60999 > /proc/sys/net/ipv4/ip_local_port_range
for n in 0 1 2 3; do
	ip link add "br$n" type bridge
	ip link set "br$n" up
	ip addr add "10.0.$n.1/24" dev "br$n"
	ip addr add "fd00:0:0:$n::1/64" dev "br$n" nodad
done
echo "lab: starting the agent"
while :; do
	netback-agent dom0
	sleep 1
done
