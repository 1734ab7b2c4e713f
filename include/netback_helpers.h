/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What bindgen cannot express: inline functions, macros and bit-fields of the
 * kernel's headers as real functions, and the module parameters that the
 * module! macro has no types for. What they do is decided in Rust.
 */
#ifndef NETBACK_HELPERS_H
#define NETBACK_HELPERS_H

#include <linux/netdevice.h>
#include <linux/skbuff.h>
#include <net/netdev_queues.h>
#include <net/page_pool/types.h>
#include <xen/interface/grant_table.h>

struct dentry;
struct seq_file;
struct workqueue_struct;
struct xenbus_device;

/* Parameters; see Documentation/admin-guide.md. */
extern bool netback_threaded;
extern bool netback_separate_tx_rx_irq;
extern bool netback_provides_xdp_headroom;
extern unsigned int netback_max_queues;
extern unsigned int netback_fatal_skb_slots;
extern unsigned int netback_rx_drain_timeout_msecs;
extern unsigned int netback_rx_stall_timeout_msecs;

/* Bounds of parameters. */
#define NETBACK_MAX_QUEUES 256

/* Constants whose macros or anonymous enums bindgen does not evaluate. */
static const u32 NETBACK_GSO_TCPV4 = SKB_GSO_TCPV4;
static const u32 NETBACK_GSO_TCPV6 = SKB_GSO_TCPV6;
static const u32 NETBACK_GSO_DODGY = SKB_GSO_DODGY;
static const u64 NETBACK_F_SG = NETIF_F_SG;
static const u64 NETBACK_F_IP_CSUM = NETIF_F_IP_CSUM;
static const u64 NETBACK_F_IPV6_CSUM = NETIF_F_IPV6_CSUM;
static const u64 NETBACK_F_TSO = NETIF_F_TSO;
static const u64 NETBACK_F_TSO6 = NETIF_F_TSO6;

/* Xen. */
bool netback_xen_domain(void);
int netback_grant_copy(struct gnttab_copy *ops, unsigned int count);
unsigned long netback_virt_to_gfn(const void *address);
unsigned long netback_page_to_gfn(struct page *page);
struct device *netback_xenbus_to_device(struct xenbus_device *dev);
bool netback_device_unlocked(struct device *dev);
int netback_irq_set_affinity(unsigned int irq, unsigned int cpu);

/* Socket buffers. */
u16 netback_skb_queue(const struct sk_buff *skb);
bool netback_skb_frag_foreign(const skb_frag_t *frag, unsigned int n, unsigned long *gfn,
			      u16 *domid, u32 *gref);
bool netback_skb_frags_readable(const struct sk_buff *skb);
bool netback_skb_has_frag_list(const struct sk_buff *skb);
void netback_skb_fill_frag(struct sk_buff *skb, unsigned int i, struct page *page,
			   unsigned int offset, unsigned int len, unsigned int truesize);
void netback_skb_set_hash(struct sk_buff *skb, u32 hash, bool l4);
u8 netback_skb_ip_summed(const struct sk_buff *skb);
void netback_skb_set_ip_summed(struct sk_buff *skb, u8 ip_summed);
void netback_skb_receive_on(struct sk_buff *skb, struct net_device *dev);
u16 netback_skb_protocol(const struct sk_buff *skb);
u16 netback_skb_csum_offset(const struct sk_buff *skb);
unsigned int netback_skb_transport_offset(const struct sk_buff *skb);
bool netback_pskb_may_pull(struct sk_buff *skb, unsigned int len);
void netback_skb_tx_timestamp(struct sk_buff *skb);
void netback_skb_disown(struct sk_buff *skb);
struct sk_buff *netback_page_pool_skb(struct page_pool *pool, unsigned int len);
struct page *netback_page_pool_page(struct page_pool *pool);
struct page *netback_page_pool_frag(struct page_pool *pool, unsigned int *offset,
				    unsigned int size);

/* Network devices and NAPI. */
void *netback_netdev_priv(const struct net_device *dev);
void netback_netdev_setup(struct net_device *dev, struct device *parent,
			  const struct net_device_ops *ops,
			  const struct ethtool_ops *ethtool,
			  const struct netdev_stat_ops *stat_ops,
			  netdev_features_t features, unsigned int max_mtu,
			  const u8 *address);
void netback_netdev_copy_name(const struct net_device *dev, char *name);
void netback_netdev_set_name(struct net_device *dev, const char *name);
bool netback_netdev_running(const struct net_device *dev);
bool netback_netdev_operational(const struct net_device *dev);
const struct net_device_ops *netback_netdev_ops(const struct net_device *dev);
struct net_device *netback_notifier_netdev(const void *info);
unsigned int netback_netdev_mtu(const struct net_device *dev);
void netback_netdev_set_mtu(struct net_device *dev, unsigned int mtu);
void netback_netdev_hold(struct net_device *dev);
void netback_netdev_put(struct net_device *dev);
void netback_tx_start_all(struct net_device *dev);
void netback_tx_stop_all(struct net_device *dev);
void netback_tx_wake_all(struct net_device *dev);
void netback_tx_disable(struct net_device *dev);
struct netdev_queue *netback_tx_queue(struct net_device *dev, unsigned int index);
unsigned int netback_tx_queues(const struct net_device *dev);
void netback_tx_stop(struct netdev_queue *queue);
bool netback_tx_stopped(const struct netdev_queue *queue);
void netback_tx_wake(struct netdev_queue *queue);
bool netback_tx_sent(struct netdev_queue *queue, unsigned int bytes);
bool netback_xmit_more(void);
bool netback_tx_full(const struct netdev_queue *queue);
void netback_tx_completed(struct netdev_queue *queue, unsigned int packets,
			  unsigned int bytes);
void netback_tx_reset(struct netdev_queue *queue);

struct napi_struct *netback_napi_new(struct net_device *dev,
				     int (*poll)(struct napi_struct *, int),
				     void *context);
void *netback_napi_context(const struct napi_struct *napi);
void netback_napi_free(struct napi_struct *napi);
int netback_napi_bind_thread(struct napi_struct *napi, unsigned int cpu);

/* Tracepoints, in trace.c. */
void netback_do_trace_batch(unsigned int group, unsigned int queues,
			    unsigned int rx_frames, unsigned int tx_frames,
			    unsigned int pieces);
bool netback_trace_visit_enabled(void);
void netback_do_trace_visit(const char *dev, unsigned int queue, unsigned int group,
			    unsigned int rx_frames, unsigned int tx_frames);
void netback_do_trace_fault(const char *dev, unsigned int queue, unsigned int domid,
			    const char *reason, unsigned int reason_len);
void netback_do_trace_stall(const char *dev, unsigned int queue, bool stalled);
void netback_do_trace_credit(const char *dev, unsigned int queue, unsigned int len,
			     u64 wait_ns);

struct workqueue_struct *netback_workqueue_new(const char *name);

/* What a file in debugfs shows, and how. */
struct netback_shown {
	int (*show)(struct seq_file *m, const struct netback_shown *shown);
};

struct dentry *netback_debugfs_file(const char *name, struct dentry *parent,
				    struct netback_shown *shown);

/* Processors and locks. */
unsigned int netback_next_present_cpu(unsigned int from);
bool netback_cpu_online(unsigned int cpu);
int netback_cpuhp_online(const char *name, int (*arrived)(unsigned int cpu));
void netback_cpuhp_remove(int state);
unsigned int netback_nr_cpu_ids(void);
int netback_cpu_to_node(unsigned int cpu);
void netback_local_bh_disable(void);
void netback_local_bh_enable(void);
bool netback_net_ratelimit(void);

#endif /* NETBACK_HELPERS_H */
