// Programs of many sections, with subprograms in .text and elsewhere, callbacks and a legacy tail section.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";
__u32 VERSION SEC("version") = 0x061200;

struct sum {
	__u64 total;
	__u32 rounds;
};

static __noinline int leaf(int x)
{
	volatile int y = x;
	return y + 1;
}

__noinline int middle(int x)
{
	return leaf(x) * 2;
}

__attribute__((visibility("hidden"))) __noinline int hidden(int x)
{
	return leaf(x) + 3;
}

static long add_index(__u32 index, void *ctx)
{
	struct sum *sum = ctx;

	sum->total += index;
	sum->rounds++;
	return 0;
}

SEC("xdp")
int first(struct xdp_md *ctx)
{
	return middle(ctx->ingress_ifindex) + hidden(1);
}

SEC("xdp")
int second(struct xdp_md *ctx)
{
	struct sum sum = {};

	bpf_loop(8, add_index, &sum, 0);
	return leaf((int)sum.total);
}

SEC("?tc")
int optional(struct __sk_buff *skb)
{
	return leaf(skb->len);
}

SEC("xdp.frags")
int frags(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("fentry.s/bpf_fentry_test1")
int sleepable(void *ctx)
{
	return 0;
}

SEC("2/5")
int tail(struct xdp_md *ctx)
{
	return XDP_DROP;
}

SEC("unknown_section")
int mystery(void *ctx)
{
	return 0;
}
