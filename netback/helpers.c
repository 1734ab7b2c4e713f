// SPDX-License-Identifier: GPL-2.0
/*
 * Inline functions, macros and bit-fields of the kernel's headers as functions
 * that Rust can call, and the module parameters whose types or permissions the
 * module! macro cannot declare. What they do is decided in Rust.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/build_bug.h>
#include <linux/cpuhotplug.h>
#include <linux/cpumask.h>
#include <linux/debugfs.h>
#include <linux/device.h>
#include <linux/etherdevice.h>
#include <linux/interrupt.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/seq_file.h>
#include <linux/skbuff.h>
#include <linux/slab.h>
#include <linux/workqueue.h>
#include <net/page_pool/helpers.h>
#include <net/sock.h>
#include <xen/grant_table.h>
#include <xen/page.h>
#include <xen/xen.h>
#include <xen/xenbus.h>
#include <asm/xen/hypercall.h>

#include "netback_helpers.h"

/* A boolean; what is wrong with any other value goes to the log. */
static int netback_set_bool(const char *val, const struct kernel_param *kp)
{
	int err = param_set_bool(val, kp);

	if (err)
		pr_err("%s: neither Y nor N\n", kp->name);
	return err;
}

static const struct kernel_param_ops netback_bool_ops = {
	.flags = KERNEL_PARAM_OPS_FL_NOARG,
	.set = netback_set_bool,
	.get = param_get_bool,
};

bool netback_threaded;
module_param_named(threaded, netback_threaded, bool, 0444);
MODULE_PARM_DESC(threaded,
		 "Run the worker groups as kernel threads instead of in softirq (default N)");

bool netback_separate_tx_rx_irq = true;
module_param_cb(separate_tx_rx_irq, &netback_bool_ops, &netback_separate_tx_rx_irq, 0644);
__MODULE_PARM_TYPE(separate_tx_rx_irq, "bool");
MODULE_PARM_DESC(separate_tx_rx_irq,
		 "Offer frontends an event channel for each direction (default Y)");

bool netback_provides_xdp_headroom = true;
module_param_cb(provides_xdp_headroom, &netback_bool_ops, &netback_provides_xdp_headroom, 0644);
__MODULE_PARM_TYPE(provides_xdp_headroom, "bool");
MODULE_PARM_DESC(provides_xdp_headroom,
		 "Offer frontends headroom for XDP in their receive buffers (default Y)");

/* A number within bounds; what is wrong with any other goes to the log. */
static int netback_set_bounded(const char *val, const struct kernel_param *kp,
			       unsigned int min, unsigned int max)
{
	int err = param_set_uint_minmax(val, kp, min, max);

	if (err)
		pr_err("%s: not a number from %u to %u\n", kp->name, min, max);
	return err;
}

static int netback_set_max_queues(const char *val, const struct kernel_param *kp)
{
	return netback_set_bounded(val, kp, 0, NETBACK_MAX_QUEUES);
}

static const struct kernel_param_ops netback_max_queues_ops = {
	.set = netback_set_max_queues,
	.get = param_get_uint,
};

unsigned int netback_max_queues;
module_param_cb(max_queues, &netback_max_queues_ops, &netback_max_queues, 0644);
__MODULE_PARM_TYPE(max_queues, "uint");
MODULE_PARM_DESC(max_queues,
		 "Most queues of a vif (default: as many as processors are online, 8 at most)");

static int netback_set_number(const char *val, const struct kernel_param *kp)
{
	return netback_set_bounded(val, kp, 0, UINT_MAX);
}

static const struct kernel_param_ops netback_number_ops = {
	.set = netback_set_number,
	.get = param_get_uint,
};

/*
 * So that options meant for xen-netback are understood: hashes are computed for
 * each frame here, and none is kept.
 */
static unsigned int netback_hash_cache_size = 64;
module_param_cb(hash_cache_size, &netback_number_ops, &netback_hash_cache_size, 0644);
__MODULE_PARM_TYPE(hash_cache_size, "uint");
MODULE_PARM_DESC(hash_cache_size, "Without effect: there is no hash cache");

unsigned int netback_fatal_skb_slots = 20;
module_param_named(fatal_skb_slots, netback_fatal_skb_slots, uint, 0444);
MODULE_PARM_DESC(fatal_skb_slots,
		 "Slots after the first beyond which a guest's frame disables its vif (default 20, at least 18)");

unsigned int netback_rx_drain_timeout_msecs = 10000;
module_param_named(rx_drain_timeout_msecs, netback_rx_drain_timeout_msecs, uint, 0444);
MODULE_PARM_DESC(rx_drain_timeout_msecs,
		 "How long a frame waits for a guest's buffers before it is dropped (default 10000)");

unsigned int netback_rx_stall_timeout_msecs = 60000;
module_param_named(rx_stall_timeout_msecs, netback_rx_stall_timeout_msecs, uint, 0444);
MODULE_PARM_DESC(rx_stall_timeout_msecs,
		 "How long a guest may make no room before its carrier goes off, 0 for ever (default 60000)");

/* Xen. */

/* Grants are of Xen's pages: frames are cut up as if the kernel's were the same. */
static_assert(PAGE_SIZE == XEN_PAGE_SIZE, "netback wants a kernel with pages of 4 KiB");

bool netback_xen_domain(void)
{
	return xen_domain();
}

int netback_grant_copy(struct gnttab_copy *ops, unsigned int count)
{
	return HYPERVISOR_grant_table_op(GNTTABOP_copy, ops, count);
}

unsigned long netback_virt_to_gfn(const void *address)
{
	return virt_to_gfn((void *)address);
}

unsigned long netback_page_to_gfn(struct page *page)
{
	return xen_page_to_gfn(page);
}

struct device *netback_xenbus_to_device(struct xenbus_device *dev)
{
	return &dev->dev;
}

/*
 * Whether nobody holds the device's lock, as who binds or unbinds it does. The
 * answer may be out of date by the time it is read.
 */
bool netback_device_unlocked(struct device *dev)
{
	if (!device_trylock(dev))
		return false;
	device_unlock(dev);
	return true;
}

int netback_irq_set_affinity(unsigned int irq, unsigned int cpu)
{
	return irq_set_affinity(irq, cpumask_of(cpu));
}

/* Socket buffers. */

u16 netback_skb_queue(const struct sk_buff *skb)
{
	return skb_get_queue_mapping(skb);
}

/* Where a page of a fragment is: in memory of ours, or in another guest's. */
bool netback_skb_frag_foreign(const skb_frag_t *frag, unsigned int n, unsigned long *gfn,
			      u16 *domid, u32 *gref)
{
	struct page *page = skb_frag_page(frag) + n;
	struct xen_page_foreign *foreign = xen_page_foreign(page);

	if (!foreign) {
		*gfn = xen_page_to_gfn(page);
		return false;
	}
	*domid = foreign->domid;
	*gref = foreign->gref;
	return true;
}

bool netback_skb_frags_readable(const struct sk_buff *skb)
{
	return skb_frags_readable(skb);
}

bool netback_skb_has_frag_list(const struct sk_buff *skb)
{
	return skb_has_frag_list(skb);
}

void netback_skb_fill_frag(struct sk_buff *skb, unsigned int i, struct page *page,
			   unsigned int offset, unsigned int len, unsigned int truesize)
{
	skb_add_rx_frag(skb, i, page, offset, len, truesize);
}

void netback_skb_set_hash(struct sk_buff *skb, u32 hash, bool l4)
{
	skb_set_hash(skb, hash, l4 ? PKT_HASH_TYPE_L4 : PKT_HASH_TYPE_L3);
}

u8 netback_skb_ip_summed(const struct sk_buff *skb)
{
	return skb->ip_summed;
}

void netback_skb_set_ip_summed(struct sk_buff *skb, u8 ip_summed)
{
	skb->ip_summed = ip_summed;
}

void netback_skb_receive_on(struct sk_buff *skb, struct net_device *dev)
{
	skb->protocol = eth_type_trans(skb, dev);
	skb_reset_network_header(skb);
}

u16 netback_skb_protocol(const struct sk_buff *skb)
{
	return be16_to_cpu(skb->protocol);
}

u16 netback_skb_csum_offset(const struct sk_buff *skb)
{
	return skb->csum_offset;
}

unsigned int netback_skb_transport_offset(const struct sk_buff *skb)
{
	return skb_transport_offset(skb);
}

bool netback_pskb_may_pull(struct sk_buff *skb, unsigned int len)
{
	return pskb_may_pull(skb, len);
}

void netback_skb_tx_timestamp(struct sk_buff *skb)
{
	skb_tx_timestamp(skb);
}

void netback_skb_disown(struct sk_buff *skb)
{
	if (!skb->sk || !sk_fullsock(skb->sk) || !sk_is_tcp(skb->sk))
		skb_orphan(skb);
}

struct sk_buff *netback_page_pool_skb(struct page_pool *pool, unsigned int len)
{
	unsigned int size = SKB_HEAD_ALIGN(NET_SKB_PAD + len);
	void *head = page_pool_dev_alloc_va(pool, &size);
	struct sk_buff *skb;

	if (!head)
		return NULL;
	skb = napi_build_skb(head, size);
	if (!skb) {
		page_pool_free_va(pool, head, true);
		return NULL;
	}
	skb_mark_for_recycle(skb);
	skb_reserve(skb, NET_SKB_PAD);
	__skb_put(skb, len);
	return skb;
}

struct page *netback_page_pool_page(struct page_pool *pool)
{
	return page_pool_dev_alloc_pages(pool);
}

/*
 * The pool puts one piece right behind the other, whatever their sizes are. The
 * next may become a buffer's head, at whose end is a structure with atomic
 * counters: it has to begin at a cache line.
 */
struct page *netback_page_pool_frag(struct page_pool *pool, unsigned int *offset,
				    unsigned int size)
{
	return page_pool_dev_alloc_frag(pool, offset, SKB_DATA_ALIGN(size));
}

/* Network devices and NAPI. */

void *netback_netdev_priv(const struct net_device *dev)
{
	return netdev_priv(dev);
}

void netback_netdev_setup(struct net_device *dev, struct device *parent,
			  const struct net_device_ops *ops,
			  const struct ethtool_ops *ethtool,
			  const struct netdev_stat_ops *stat_ops,
			  netdev_features_t features, unsigned int max_mtu,
			  const u8 *address)
{
	SET_NETDEV_DEV(dev, parent);
	dev->netdev_ops = ops;
	dev->ethtool_ops = ethtool;
	dev->stat_ops = stat_ops;
	/* start_xmit links and marks frames, so they must not be shared. */
	dev->priv_flags &= ~IFF_TX_SKB_SHARING;
	dev->hw_features = features;
	dev->features = features | NETIF_F_RXCSUM;
	dev->min_mtu = ETH_MIN_MTU;
	dev->max_mtu = max_mtu;
	eth_hw_addr_set(dev, address);
	netif_carrier_off(dev);
	/* Until a frontend says how many it has. */
	dev->real_num_tx_queues = 1;
	dev->real_num_rx_queues = 1;
}

void netback_netdev_copy_name(const struct net_device *dev, char *name)
{
	strscpy(name, dev->name, IFNAMSIZ);
}

void netback_netdev_set_name(struct net_device *dev, const char *name)
{
	strscpy(dev->name, name, sizeof(dev->name));
}

bool netback_netdev_running(const struct net_device *dev)
{
	return netif_running(dev);
}

bool netback_netdev_operational(const struct net_device *dev)
{
	return netif_carrier_ok(dev) && netif_oper_up(dev);
}

const struct net_device_ops *netback_netdev_ops(const struct net_device *dev)
{
	return dev->netdev_ops;
}

struct net_device *netback_notifier_netdev(const void *info)
{
	return netdev_notifier_info_to_dev(info);
}

unsigned int netback_netdev_mtu(const struct net_device *dev)
{
	return READ_ONCE(dev->mtu);
}

void netback_netdev_set_mtu(struct net_device *dev, unsigned int mtu)
{
	WRITE_ONCE(dev->mtu, mtu);
}

void netback_netdev_hold(struct net_device *dev)
{
	dev_hold(dev);
}

void netback_netdev_put(struct net_device *dev)
{
	dev_put(dev);
}

void netback_tx_start_all(struct net_device *dev)
{
	netif_tx_start_all_queues(dev);
}

void netback_tx_stop_all(struct net_device *dev)
{
	netif_tx_stop_all_queues(dev);
}

void netback_tx_wake_all(struct net_device *dev)
{
	netif_tx_wake_all_queues(dev);
}

void netback_tx_disable(struct net_device *dev)
{
	netif_tx_disable(dev);
}

struct netdev_queue *netback_tx_queue(struct net_device *dev, unsigned int index)
{
	return index < dev->num_tx_queues ? netdev_get_tx_queue(dev, index) : NULL;
}

unsigned int netback_tx_queues(const struct net_device *dev)
{
	return dev->num_tx_queues;
}

void netback_tx_stop(struct netdev_queue *queue)
{
	netif_tx_stop_queue(queue);
}

bool netback_tx_stopped(const struct netdev_queue *queue)
{
	return netif_tx_queue_stopped(queue);
}

void netback_tx_wake(struct netdev_queue *queue)
{
	netif_tx_wake_queue(queue);
}

bool netback_tx_sent(struct netdev_queue *queue, unsigned int bytes)
{
	return !__netdev_tx_sent_queue(queue, bytes, netdev_xmit_more());
}

bool netback_xmit_more(void)
{
	return netdev_xmit_more();
}

bool netback_tx_full(const struct netdev_queue *queue)
{
	return netif_xmit_stopped(queue);
}

void netback_tx_completed(struct netdev_queue *queue, unsigned int packets,
			  unsigned int bytes)
{
	netdev_tx_completed_queue(queue, packets, bytes);
}

void netback_tx_reset(struct netdev_queue *queue)
{
	netdev_tx_reset_queue(queue);
}

/* A NAPI instance and the context of its poll function. */
struct netback_napi {
	struct napi_struct napi;
	void *context;
};

struct napi_struct *netback_napi_new(struct net_device *dev,
				     int (*poll)(struct napi_struct *, int),
				     void *context)
{
	struct netback_napi *n = kzalloc(sizeof(*n), GFP_KERNEL);

	if (!n)
		return NULL;
	n->context = context;
	netif_napi_add(dev, &n->napi, poll);
	return &n->napi;
}

void *netback_napi_context(const struct napi_struct *napi)
{
	return container_of_const(napi, struct netback_napi, napi)->context;
}

void netback_napi_free(struct napi_struct *napi)
{
	netif_napi_del(napi);
	kfree(container_of(napi, struct netback_napi, napi));
}

int netback_napi_bind_thread(struct napi_struct *napi, unsigned int cpu)
{
	return napi->thread ? set_cpus_allowed_ptr(napi->thread, cpumask_of(cpu)) : 0;
}

struct workqueue_struct *netback_workqueue_new(const char *name)
{
	return alloc_workqueue("%s", WQ_UNBOUND, 0, name);
}

/* debugfs. */

static int netback_debugfs_show(struct seq_file *m, void *unused)
{
	const struct netback_shown *shown = m->private;

	return shown->show(m, shown);
}

/* With an owner: a file that is open keeps the module. */
DEFINE_SHOW_ATTRIBUTE(netback_debugfs);

struct dentry *netback_debugfs_file(const char *name, struct dentry *parent,
				    struct netback_shown *shown)
{
	return debugfs_create_file(name, 0444, parent, shown, &netback_debugfs_fops);
}

/* Processors and locks. */

unsigned int netback_next_present_cpu(unsigned int from)
{
	return cpumask_next((int)from - 1, cpu_present_mask);
}

bool netback_cpu_online(unsigned int cpu)
{
	return cpu_online(cpu);
}

int netback_cpuhp_online(const char *name, int (*arrived)(unsigned int cpu))
{
	return cpuhp_setup_state(CPUHP_AP_ONLINE_DYN, name, arrived, NULL);
}

void netback_cpuhp_remove(int state)
{
	cpuhp_remove_state_nocalls(state);
}

unsigned int netback_nr_cpu_ids(void)
{
	return nr_cpu_ids;
}

int netback_cpu_to_node(unsigned int cpu)
{
	return cpu_to_node(cpu);
}

void netback_local_bh_disable(void)
{
	local_bh_disable();
}

void netback_local_bh_enable(void)
{
	local_bh_enable();
}

bool netback_net_ratelimit(void)
{
	return net_ratelimit();
}
