#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Replaces the loaded network backend under running guests: by a newer build of itself, or by
# another driver. The guests' connections survive.
#
#	netback-reload [--from MODULE] [--load COMMAND] [--back COMMAND]	all vifs, and the module
#	netback-reload --rebind vif-3-0 ...					only these vifs, and no module
#
# MODULE is the module to unload (default: the one that serves vifs now), the first COMMAND loads its
# successor (default: modprobe netback). If that goes wrong the second one loads MODULE again
# (default: modprobe MODULE), and the guests are served by it as before.
#
# xenbus holds a reference on the module for every vif, so all of them are unbound first. With the
# driver goes the network interface, and hotplug-status. MTU, bridge and whether it was up are noted
# before and put back all at once. An interface that was on no bridge has routes, addresses and
# whatever else only the vif's own hotplug script knows: that is run again, as the toolstack did when
# the vif was made. Offloads that were switched are switched again at the end.
set -u

bus=/sys/bus/xen-backend
notes=/run/netback/reload
leftover=/run/netback/reload.lost
from=
load="modprobe netback"
back=
rebind=

fail() {
	echo "netback-reload: $*" >&2
	exit 1
}

usage() {
	fail "usage: netback-reload [--from MODULE] [--load COMMAND] [--back COMMAND] | --rebind vif-DOMAIN-HANDLE..."
}

# The module whose driver serves vifs, if there is one.
serving() {
	module=$(readlink "$bus/drivers/vif/module") && echo "${module##*/}"
}

while [ $# -gt 0 ]; do
	# Each takes a value, and none is empty.
	[ -n "${2:-}" ] || usage
	case "$1" in
	--from) from=$2; shift 2 ;;
	--load) load=$2; shift 2 ;;
	--back) back=$2; shift 2 ;;
	--rebind) shift; rebind=$*; break ;;
	*) usage ;;
	esac
done
[ "$(id -u)" = 0 ] || fail "only root can do this"

# All that can be known to go wrong is looked for as long as the guests are served.
if [ -n "$rebind" ]; then
	[ -z "$from$back" ] || usage
	for name in $rebind; do
		case "$name" in
		vif-*/*) usage ;;
		vif-*) [ -e "$bus/drivers/vif/$name" ] || fail "$name is not bound; nothing was done" ;;
		*) usage ;;
		esac
	done
else
	now=$(serving)
	if [ -z "$from" ]; then
		from=$now
		for module in netback xen_netback; do
			[ -n "$from" ] || [ ! -e "/sys/module/$module/initstate" ] || from=$module
		done
		[ -n "$from" ] || fail "no network backend is loaded; nothing was done"
	fi
	# The kernel takes either name.
	from=$(echo "$from" | tr - _)
	[ -d "/sys/module/$from" ] || fail "$from is not loaded; nothing was done"
	[ -z "$now" ] || [ "$now" = "$from" ] || fail "$now serves the vifs, and not $from; nothing was done"
	[ -e "/sys/module/$from/initstate" ] ||
		fail "$from is part of the kernel and cannot be unloaded; nothing was done"
	[ -n "$back" ] || back="modprobe $from"
fi

mkdir -p /run/netback
# While this is there, netback-hotplug leaves the interfaces to us.
if ! mkdir "$notes" 2>/dev/null; then
	[ -e "$notes" ] || fail "cannot make $notes; nothing was done"
	fail "another reload is under way; if not, remove $notes"
fi
# The kernel waits for grace periods again and again while a driver goes, ten milliseconds and more
# for each; it can be told to hurry.
rcu=/sys/kernel/rcu_expedited
hurried=
{ read -r hurried < "$rcu"; } 2>/dev/null
trap 'rm -rf "$notes"; [ -z "$hurried" ] || echo "$hurried" > "$rcu"' EXIT

# What can be switched of an interface, and how it is.
offloads() {
	ethtool -k "$1" 2>/dev/null | sed -n '/fixed/d; s/^[ 	]*\([a-z0-9-]*\): \(o[nf]*\)$/\1 \2/p'
}

# Takes a name like vif-3-0 apart.
names() {
	domid=${1#vif-}
	handle=${domid#*-}
	domid=${domid%-*}
	vif=vif$domid.$handle
	XENBUS_PATH=backend/vif/$domid/$handle
	export vif XENBUS_PATH
}

vifs=
for device in "$bus"/drivers/vif/vif-*; do
	[ -e "$device" ] || continue
	name=${device##*/}
	[ -z "$rebind" ] || case " $rebind " in
	*" $name "*) ;;
	*) continue ;;
	esac
	vifs="$vifs $name"
	names "$name"
	net=/sys/class/net/$vif
	: > "$notes/$name.ip"
	: > "$notes/$name.offloads"
	# One that was given another name is its script's business.
	[ -e "$net" ] || continue
	offloads "$vif" > "$notes/$name.offloads"
	read -r mtu < "$net/mtu"
	read -r flags < "$net/flags"
	{
		echo "link set $vif mtu $mtu"
		if [ -e "$net/master" ]; then
			master=$(readlink "$net/master")
			echo "link set $vif master ${master##*/}"
			[ $((flags & 1)) = 0 ] || echo "link set $vif up"
			: > "$notes/$name.bridged"
		fi
	} > "$notes/$name.ip"
done
[ -z "$hurried" ] || echo 1 > "$rcu"

# From here on the guests wait, so as little is started as can be; and whatever happens, they are to be
# served again. Who interrupts ends what runs just now, which counts as having failed.
why=
trap 'why=${why:-interrupted}' HUP INT TERM
unbind() {
	{ echo "$1" > "$bus/drivers/vif/unbind"; } 2>/dev/null || [ ! -e "$bus/drivers/vif/$1" ] ||
		: > "$notes/failed"
}
case "${vifs# }" in
*" "*)
	# Each of them waits a while for those who still use the interface: all at once.
	for name in $vifs; do
		unbind "$name" &
	done
	# A signal ends the waiting, and not what is waited for.
	until wait; do :; done
	;;
?*) unbind "${vifs# }" ;;
esac
[ ! -e "$notes/failed" ] || why=${why:-some vif cannot be unbound}
if [ -z "$rebind" ]; then
	if [ -z "$why" ]; then
		if ! rmmod "$from"; then
			why="cannot unload $from"
		# In a shell of its own, which it may leave as it likes.
		elif ! (eval "$load") || [ -n "$why" ]; then
			why=${why:-cannot load the successor with: $load}
		elif [ ! -e "$bus/drivers/vif" ]; then
			why="no network backend was loaded by: $load"
		fi
	fi
	if [ -n "$why" ]; then
		[ -d "/sys/module/$from" ] || [ -e "$bus/drivers/vif" ] || (eval "$back")
	fi
fi

# Waits until the interface $vif is there, for up to 30 seconds.
await_interface() {
	tries=0
	until [ -e "/sys/class/net/$vif" ]; do
		tries=$((tries + 1))
		[ -e "$bus/devices/$name" ] && [ $tries -lt 1500 ] || return 1
		sleep 0.02
	done
}

# The guests that come back are put where they were; the others' notes are left for who helps them.
status=0
there=
lost=
plugged=
for name in $vifs; do
	# The guest may have gone meanwhile.
	[ -e "$bus/devices/$name" ] || continue
	[ -e "$bus/devices/$name/driver" ] ||
		{ echo "$name" > "$bus/drivers/vif/bind"; } 2>/dev/null
	names "$name"
	if [ ! -e "$bus/drivers/vif" ] || ! await_interface; then
		[ -e "$bus/devices/$name" ] || continue
		[ -n "$why" ] || echo "netback-reload: $vif does not come back" >&2
		status=1
		lost="$lost vif/$domid/$handle"
		while read -r line; do
			echo "$line"
		done < "$notes/$name.ip" >> "$notes/lost"
		continue
	fi
	there="$there $name"
	while read -r line; do
		echo "$line"
	done < "$notes/$name.ip" >> "$notes/all"
	[ ! -e "$notes/$name.bridged" ] || plugged="$plugged $XENBUS_PATH/hotplug-status connected"
done
if [ -n "$there" ]; then
	ip -force -batch "$notes/all" || status=1
fi
[ -z "$plugged" ] || xenstore-write $plugged || status=1

# The guests are served again. What is left has time, and some of it only a script knows.
for name in $there; do
	names "$name"
	if [ ! -e "$notes/$name.bridged" ]; then
		script=$(xenstore-read "$XENBUS_PATH/script" 2>/dev/null)
		if [ -x "$script" ]; then
			"$script" online type_if=vif || status=1
		else
			ip link set "$vif" up
			xenstore-write "$XENBUS_PATH/hotplug-status" connected
		fi
	fi
	offloads "$vif" > "$notes/now"
	while read -r feature was; do
		grep -qx "$feature $was" "$notes/now" ||
			ethtool -K "$vif" "$feature" "$was" > /dev/null 2>&1
	done < "$notes/$name.offloads"
done

if [ -n "$lost" ]; then
	mv "$notes/lost" "$leftover"
	echo "netback-reload: ${why:+$why; }these vifs are not served:$lost"
	if [ ! -e "$bus/drivers/vif" ]; then
		echo "Load a backend by hand (modprobe netback, or modprobe xen-netback), which binds them."
	else
		echo "See in the kernel's log why, and bind them by hand in $bus/drivers/vif/."
	fi
	echo "Then 'netback-hotplug$lost' has their scripts put the interfaces back, unless udev has"
	echo "seen to that. What they were like is in $leftover, for 'ip -force -batch'."
	exit 1
fi >&2
if [ -n "$why" ]; then
	again=
	[ $status = 0 ] || again=", but what is reported above went wrong"
	fail "$why; the guests are served again by $(serving)$again"
fi
exit $status
