// One .percpu variable, used by a tail caller, by what it calls, and by another program of the object. Built by build.sh.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

__u64 first SEC(".percpu");
__u64 hits SEC(".percpu");
__u64 seen_by_callee SEC(".percpu");

int callee(struct xdp_md *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 2);
	__uint(key_size, sizeof(__u32));
	__array(values, int(struct xdp_md *));
} jumps SEC(".maps") = { .values = { [1] = &callee } };

// Constant map and index: the poked form.
SEC("xdp")
int caller(struct xdp_md *ctx)
{
	hits += 1;
	bpf_tail_call_static(ctx, &jumps, 1);
	return XDP_ABORTED;
}

// An index that is only known when it runs.
SEC("xdp")
int caller_dynamic(struct xdp_md *ctx)
{
	hits += 1;
	bpf_tail_call(ctx, &jumps, ctx->rx_queue_index);
	return XDP_ABORTED;
}

SEC("xdp")
int callee(struct xdp_md *ctx)
{
	seen_by_callee = hits;
	hits += 10;
	return XDP_PASS;
}

SEC("xdp")
int other(struct xdp_md *ctx)
{
	hits += 100;
	return hits & 0x7fffffff;
}

// A thousand additions in a run, each of its own: the asm keeps the compiler from making one of them.
SEC("xdp")
int thousand(struct xdp_md *ctx)
{
	int i;

	for (i = 0; i < 1000; i++) {
		hits++;
		asm volatile("" ::: "memory");
	}
	return XDP_PASS;
}
