/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What netback needs of the kernel's C interfaces and the kernel crate does
 * not bind: the one header that the module-local bindgen run reads. Only the
 * names on the allow-list in bindgen_parameters come out of it.
 */
#ifndef NETBACK_BINDINGS_H
#define NETBACK_BINDINGS_H

#include <linux/debugfs.h>
#include <linux/etherdevice.h>
#include <linux/ethtool.h>
#include <linux/interrupt.h>
#include <linux/netdevice.h>
#include <linux/rtnetlink.h>
#include <linux/skbuff.h>
#include <net/netdev_queues.h>
#include <net/page_pool/helpers.h>
#include <xen/events.h>
#include <xen/grant_table.h>
#include <xen/interface/grant_table.h>
#include <xen/xenbus.h>

#include "netback_helpers.h"

#endif /* NETBACK_BINDINGS_H */
