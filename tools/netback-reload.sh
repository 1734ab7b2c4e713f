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
# driver goes the network interface, and hotplug-status. What the interface was like, its bridge, how
# it was a port of that and whether it was up are noted before and put back all at once. An interface
# that was on no bridge has routes, addresses, a port of Open vSwitch or whatever else only the vif's
# own hotplug script knows: that is run again, as the toolstack did when the vif was made. Offloads
# that were switched are switched again at the end, and so is an alias.
#
# xen-netback takes a guest's frames, and answers that they were sent, before the bridge takes them from
# it: they would be lost. So what guests send is held up by their vifs' rate until then. netback needs
# none of that.
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

# How many queues the successor will offer a guest, if that can be told. Its file is read by the way: it is
# in memory then when guests wait for it.
offered() {
	if [ -n "$rebind" ]; then
		read -r most < "/sys/module/$(serving)/parameters/max_queues"
	else
		# A command that is none of these has options that only it knows.
		case "$load" in
		*[!A-Za-z0-9_./,=\ -]*) return 1 ;;
		modprobe\ * | /sbin/modprobe\ *) options=$(modprobe -D ${load#* } 2>/dev/null) || return 1 ;;
		insmod\ * | /sbin/insmod\ *) options=$load ;;
		*) return 1 ;;
		esac
		most=0
		for option in $options; do
			case "$option" in
			max_queues=*) most=${option#*=} ;;
			*.ko*) cat "$option" > /dev/null 2>&1 ;;
			esac
		done
	fi
	# By itself it offers one for each processor, up to eight.
	if [ "$most" = 0 ]; then
		most=$(getconf _NPROCESSORS_ONLN)
		[ "$most" -le 8 ] || most=8
	fi
	[ "$most" -gt 0 ] 2>/dev/null
}

# A guest cannot be served by a backend that offers fewer queues than it has.
if offered; then
	for device in "$bus"/drivers/vif/vif-*; do
		name=${device##*/}
		[ -z "$rebind" ] || case " $rebind " in
		*" $name "*) ;;
		*) continue ;;
		esac
		queues=0
		for queue in "$device"/net/*/queues/rx-*; do
			[ ! -e "$queue" ] || queues=$((queues + 1))
		done
		[ $queues -le "$most" ] ||
			fail "$name has $queues queues, and at most $most would be offered (max_queues); nothing was done"
	done
fi

# Whether what is loaded by the command $1 may take the guests' frames too soon: all but netback. Without a
# command it is what serves them now.
is_hasty() {
	case "${1-}" in
	"") [ "$(serving)" != netback ] ;;
	*[!A-Za-z0-9_./,=\ -]*) ;;
	modprobe\ netback | modprobe\ netback\ * | /sbin/modprobe\ netback | /sbin/modprobe\ netback\ *) return 1 ;;
	*\ netback.ko | *\ netback.ko\ * | */netback.ko | */netback.ko\ *) return 1 ;;
	esac
}

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
vifs=
waiting=
unlimited=
tidy() {
	trap '' HUP INT TERM
	[ -z "$waiting" ] || kill $waiting 2>/dev/null
	release $vifs
	for path in $unlimited; do
		xenstore-rm "$path" 2>/dev/null
	done
	rm -rf "$notes"
	[ -z "$hurried" ] || echo "$hurried" > "$rcu"
}
trap tidy EXIT
trap 'exit 1' HUP INT TERM
# Nobody need listen to what is said.
trap '' PIPE

# What can be switched of an interface, and how it is.
offloads() {
	ethtool -k "$1" 2>/dev/null | sed -n '/fixed/d; s/^[ 	]*\([a-z0-9-]*\): \(o[nf]*\)$/\1 \2/p'
}

newline='
'

# Takes a name like vif-3-0 apart.
names() {
	domid=${1#vif-}
	handle=${domid#*-}
	domid=${domid%-*}
	vif=vif$domid.$handle
	XENBUS_PATH=backend/vif/$domid/$handle
	export vif XENBUS_PATH
}

# What each guest may send while it is held up: a byte in a tenth of a second, and no frame is as short as
# what that comes to. Less would be taken for a mistake, and a longer time be waited for to its end.
crawl=1,100000

# Who writes for a guest that has gone makes its directory anew: takes that away again, of the vifs $@.
forget_gone() {
	for name; do
		[ ! -e "$bus/devices/$name" ] || continue
		names "$name"
		xenstore-rm "$XENBUS_PATH" 2>/dev/null
	done
}

# Has the guests of $vifs crawl.
hold_up() {
	before=$why
	pairs=
	for name in $vifs; do
		[ -e "$bus/devices/$name" ] || continue
		names "$name"
		if rate=$(xenstore-read "$XENBUS_PATH/rate" 2>/dev/null); then
			# It may have been left behind by one of us that was killed; and what is none lifts the limit.
			case "$rate" in
			"$crawl" | "" | *[!0-9,]*) rate=none ;;
			esac
		else
			! xenstore-exists "$XENBUS_PATH/rate" 2>/dev/null && [ "$why" = "$before" ] || return 1
			rate=none
		fi
		echo "$rate" > "$notes/$name.rate" || return 1
		pairs="$pairs $XENBUS_PATH/rate $crawl"
	done
	[ -z "$pairs" ] || xenstore-write $pairs || return 1
	held_up=yes
	forget_gone $vifs
	return 0
}
held_up=

# Lets the guests of the vifs $@ send as fast as they may, and says of those that are back on their bridges
# that they are plugged.
release() {
	pairs=
	for name; do
		[ -e "$bus/devices/$name" ] || continue
		names "$name"
		[ ! -s "$notes/$name.back" ] || pairs="$pairs $XENBUS_PATH/hotplug-status connected"
		{ read -r rate < "$notes/$name.rate"; } 2>/dev/null || continue
		case "$rate" in
		# As fast as they can, which is what it means when there is no rate. To remove it takes another
		# program, and has time.
		none)
			pairs="$pairs $XENBUS_PATH/rate 4294967295,0"
			unlimited="$unlimited $XENBUS_PATH/rate"
			;;
		*) pairs="$pairs $XENBUS_PATH/rate $rate" ;;
		esac
	done
	# What interrupts us may end it. Should it fail again, the end tries once more.
	[ -z "$pairs" ] || xenstore-write $pairs || xenstore-write $pairs || return 1
	forget_gone "$@"
	for name; do
		for note in "$notes/$name.back" "$notes/$name.rate"; do
			[ ! -e "$note" ] || : > "$note"
		done
	done
}

# Starts $1, ip or bridge, which is to carry out what will be in the file $2: while the guests are still
# served, so that it has loaded all it needs when they wait. Until then it waits at a pipe.
prepare() {
	: > "$notes/$2"
	mkfifo "$notes/$2.pipe" || fail "nothing was done"
	"$1" -force -batch "$notes/$2.pipe" &
	waiting="$waiting $!"
	echo $! > "$notes/$2.pid"
}

# Has it carry that out, and waits until it has.
carry_out() {
	read -r pid < "$notes/$2.pid"
	# Opened like this, the pipe waits for nobody, and the program need not wait any more.
	exec 8<> "$notes/$2.pipe"
	tries=0
	until [ "/proc/$pid/fd/0" -ef "$notes/$2.pipe" ]; do
		tries=$((tries + 1))
		[ -e "/proc/$pid/exe" ] && [ $tries -lt 500 ] || break
		sleep 0.004
	done
	if [ "/proc/$pid/fd/0" -ef "$notes/$2.pipe" ]; then
		exec 9> "$notes/$2.pipe" 8<&-
		# It may end before it has read all.
		while read -r line; do echo "$line" >&9 || break; done < "$notes/$2" 2>/dev/null
		exec 9>&-
	else
		exec 8<&-
		kill -KILL "$pid" 2>/dev/null
	fi
	while :; do
		wait "$pid"
		result=$?
		# What interrupts us ends the waiting only.
		[ -e "/proc/$pid/exe" ] || break
	done
	# Was it that the program ended with, or the waiting?
	[ $result -le 125 ] || { wait "$pid"; result=$?; }
	others=
	for other in $waiting; do
		[ "$other" = "$pid" ] || others="$others $other"
	done
	waiting=$others
	[ $result -gt 125 ] || return $result
	"$1" -force -batch "$notes/$2"
}

# What was switched or set of the port of a bridge that $1 is, as ip takes it.
port_of() {
	while read -r file option default; do
		{ read -r value < "$1/brport/$file"; } 2>/dev/null || continue
		case "$default$value" in
		on0) value=off ;;
		off1) value=on ;;
		on1 | off0 | "$value$value") continue ;;
		esac
		echo "link set $vif type bridge_slave $option $value"
	done <<-END
		isolated isolated off
		learning learning on
		unicast_flood flood on
		multicast_flood mcast_flood on
		broadcast_flood bcast_flood on
		hairpin_mode hairpin off
		bpdu_guard guard off
		root_block root_block off
		multicast_fast_leave fastleave off
		multicast_to_unicast mcast_to_unicast off
		neigh_suppress neigh_suppress off
		proxyarp proxy_arp off
		proxyarp_wifi proxy_arp_wifi off
		multicast_router mcast_router 1
		priority priority 32
		path_cost cost 100
	END
}

# Its VLANs, as bridge takes them.
vlans_of() {
	{ read -r filters < "$1/master/bridge/vlan_filtering" && [ "$filters" = 1 ] &&
		read -r pvid < "$1/master/bridge/default_pvid"; } 2>/dev/null || return
	[ "$pvid" = 0 ] || echo "vlan del dev $vif vid $pvid"
	bridge -compressvlans vlan show dev "$vif" | awk -v vif="$vif" 'NR > 1 {
		i = $1 == vif ? 2 : 1
		if ($i !~ /^[0-9-]+$/)
			next
		print "vlan add dev", vif, "vid", $i, (/PVID/ ? "pvid" : ""), (/Untagged/ ? "untagged" : "")
	}'
}

prepare ip all
vlans=
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
	: > "$notes/$name.alias"
	{ read -r state < "$device/state"; } 2>/dev/null && [ "$state" = Connected ] &&
		: > "$notes/$name.connected"
	# One that was given another name is its script's business.
	[ -e "$net" ] || continue
	offloads "$vif" > "$notes/$name.offloads"
	cat "$net/ifalias" > "$notes/$name.alias"
	read -r mtu < "$net/mtu"
	read -r flags < "$net/flags"
	read -r length < "$net/tx_queue_len"
	read -r address < "$net/address"
	like="mtu $mtu txqueuelen $length"
	[ "$address" = fe:ff:ff:ff:ff:ff ] || like="$like address $address"
	[ $((flags & 0x80)) = 0 ] || like="$like arp off"
	[ $((flags & 0x1000)) != 0 ] || like="$like multicast off"
	echo "link set $vif $like" > "$notes/$name.ip"
	[ -e "$net/master/bridge" ] || continue
	: > "$notes/$name.bridged"
	master=$(readlink "$net/master")
	{
		echo "link set $vif master ${master##*/}"
		port_of "$net"
	} >> "$notes/$name.ip"
	vlans_of "$net" > "$notes/$name.vlans"
	[ ! -s "$notes/$name.vlans" ] || vlans=yes
	[ $((flags & 1)) = 0 ] || echo "link set $vif up" > "$notes/$name.up"
done
[ -z "$hurried" ] || echo 1 > "$rcu"
if [ -n "$vlans" ]; then
	prepare bridge all.vlans
	prepare ip all.up
fi

# From here on the guests wait, so as little is started as can be; and whatever happens, they are to be
# served again. Who interrupts ends what runs just now, which counts as having failed.
why=
trap 'why=${why:-interrupted}' HUP INT TERM
successor=$load
[ -z "$rebind" ] || successor=
if is_hasty "$successor"; then
	hold_up || why=${why:-what the guests send cannot be held up}
fi
[ -z "$why" ] || fail "$why; nothing was done"
unbind() {
	{ echo "$1" > "$bus/drivers/vif/unbind"; } 2>/dev/null || [ ! -e "$bus/drivers/vif/$1" ] ||
		: > "$notes/failed"
}
case "${vifs# }" in
*" "*)
	# Each of them waits a while for those who still use the interface: all at once.
	pids=
	for name in $vifs; do
		unbind "$name" &
		pids="$pids $!"
	done
	for pid in $pids; do
		# A signal ends the waiting, and not what is waited for.
		until wait "$pid" || [ ! -e "/proc/$pid/exe" ]; do :; done
	done
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
		successor=
		[ -d "/sys/module/$from" ] || [ -e "$bus/drivers/vif" ] || successor=$back
		[ -n "$held_up" ] || ! is_hasty "$successor" || hold_up
		# Who interrupts us twice shall not leave the guests to nobody.
		[ -z "$successor" ] || (trap '' HUP INT TERM; eval "$successor")
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
	return 0
}

# Adds lines that were noted to others. Without a program: the guests wait.
add() {
	[ -e "$1" ] || return 0
	while read -r line; do
		echo "$line"
	done < "$1" >> "$2"
}

# The guests that come back are put where they were; the others' notes are left for who helps them.
status=0
there=
lost=
bridged=
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
		add "$notes/$name.ip" "$notes/lost"
		add "$notes/$name.up" "$notes/lost"
		add "$notes/$name.vlans" "$notes/lost.vlans"
		continue
	fi
	there="$there $name"
	add "$notes/$name.ip" "$notes/all"
	add "$notes/$name.vlans" "$notes/all.vlans"
	# One is not to be up in the wrong VLANs.
	add "$notes/$name.up" "$notes/all${vlans:+.up}"
	[ -e "$notes/$name.bridged" ] || continue
	bridged="$bridged $name"
	echo back > "$notes/$name.back"
done
if [ -n "$there" ]; then
	carry_out ip all || status=1
	if [ -n "$vlans" ]; then
		carry_out bridge all.vlans || status=1
		carry_out ip all.up || status=1
	fi
fi

# Whether there is nothing to wait for before the guest of $vif may send: the bridge has opened its port, or
# has begun to. It hears of the link when somebody asks for that.
is_let_in() {
	[ -n "$held_up" ] && [ -e "$notes/$name.up" ] && [ -e "$notes/$name.connected" ] &&
		[ -e "$bus/devices/$name" ] || return 0
	{ read -r carrier < "/sys/class/net/$vif/carrier" && [ "$carrier" = 1 ] &&
		read -r state < "/sys/class/net/$vif/brport/state" && [ "$state" != 0 ]; } 2>/dev/null
}

# For up to two seconds, at first without a program.
tries=0
rest=$bridged
while [ -n "$rest" ]; do
	pending=$rest
	ready=
	rest=
	tries=$((tries + 1))
	for name in $pending; do
		names "$name"
		if is_let_in || [ $tries = 530 ]; then
			ready="$ready $name"
		else
			rest="$rest $name"
		fi
	done
	[ -z "$ready" ] || release $ready || status=1
	[ -z "$rest" ] || [ $tries -lt 30 ] || sleep 0.004
done

# The others' own scripts know where they belong.
for name in $there; do
	[ ! -e "$notes/$name.bridged" ] || continue
	names "$name"
	script=$(xenstore-read "$XENBUS_PATH/script" 2>/dev/null)
	if [ -x "$script" ]; then
		# As the toolstack does, for scripts that route.
		netdev=$(xenstore-read "$XENBUS_PATH/gatewaydev" 2>/dev/null)
		export netdev
		"$script" online type_if=vif || status=1
	else
		ip link set "$vif" up
		xenstore-write "$XENBUS_PATH/hotplug-status" connected
	fi
	release "$name" || status=1
done

# Waits until the guest of $vif is connected, for up to ten seconds. A guest that has disconnected does
# not count; one that was refused does.
await_connection() {
	tries=0
	while { read -r state < "$bus/devices/$name/state"; } 2>/dev/null; do
		tries=$((tries + 1))
		case "$state" in
		Connected | Reconfigur*) return 0 ;;
		Clos*) xenstore-exists "error/$XENBUS_PATH/error" 2>/dev/null || return 0; return 1 ;;
		esac
		[ $tries -lt 500 ] || return 1
		sleep 0.02
	done
	return 0
}
for name in $there; do
	[ -e "$notes/$name.connected" ] || continue
	names "$name"
	await_connection && continue
	error=$(xenstore-read "error/$XENBUS_PATH/error" 2>/dev/null)
	echo "netback-reload: $vif is not connected again: ${error:-it is in state $state}" >&2
	echo "Its guest is without network until the vif is attached anew, or the guest started anew." >&2
	status=1
done

# The guests are served again. What is left has time, and leaves it to them.
sleep 0.1
for name in $there; do
	names "$name"
	now=$(offloads "$vif")
	while read -r feature was; do
		case "$newline$now$newline" in
		*"$newline$feature $was$newline"*) ;;
		*) ethtool -K "$vif" "$feature" "$was" > /dev/null 2>&1 ;;
		esac
	done < "$notes/$name.offloads"
	alias=$(cat "$notes/$name.alias")
	[ -z "$alias" ] || ip link set dev "$vif" alias "$alias" || status=1
done

if [ -n "$lost" ]; then
	mv "$notes/lost" "$leftover"
	also=
	if [ -s "$notes/lost.vlans" ]; then
		mv "$notes/lost.vlans" "$leftover.vlans"
		also=" and in $leftover.vlans, for 'bridge -force -batch'"
	fi
	echo "netback-reload: ${why:+$why; }these vifs are not served:$lost"
	if [ ! -e "$bus/drivers/vif" ]; then
		echo "Load a backend by hand (modprobe netback, or modprobe xen-netback), which binds them."
	else
		echo "See in the kernel's log why, and bind them by hand in $bus/drivers/vif/."
	fi
	echo "Then 'netback-hotplug$lost' has their scripts put the interfaces back, unless udev has"
	echo "seen to that. What they were like is in $leftover, for 'ip -force -batch'$also."
	exit 1
fi >&2
if [ -n "$why" ]; then
	again=
	[ $status = 0 ] || again=", but what is reported above went wrong"
	fail "$why; the guests are served again by $(serving)$again"
fi
exit $status
