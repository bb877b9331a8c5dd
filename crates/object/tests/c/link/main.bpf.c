// The half that has the programs: it calls functions of the other, uses its maps and its data.
#include "shared.h"

char LICENSE[] SEC("license") = "GPL";

// Known whole here, and only by name in lib.bpf.c.
struct flow {
	__u64 packets;
	struct node *first;
};

extern struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct limits);
} shared_map SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, struct flow);
} own_map SEC(".maps");

extern int lib_counter;
extern const volatile int lib_limit;
extern int lib_hits PERCPU("");

int main_counter = 5;
static volatile int hidden = 7;
int main_hits PERCPU("") = 1000;
__u64 main_zero;

int add(int a, int b);
int chosen(int x);
int only_weak(int x);

// A weak definition that the other half replaces.
__weak int chosen(int x)
{
	return x + hidden + 100000;
}

static __noinline int scale(int x)
{
	return x * 3 + hidden;
}

SEC("xdp")
int first(struct xdp_md *ctx)
{
	__u32 key = 1;
	struct limits *limits = bpf_map_lookup_elem(&shared_map, &key);
	struct flow flow = { .packets = 1 };

	bpf_map_update_elem(&own_map, &key, &flow, BPF_ANY);
	main_hits++;
	lib_hits += 2;
	lib_counter += lib_limit;
	main_counter++;
	main_zero += 4;
	return add(ctx->rx_queue_index, limits ? limits->high : 0) + chosen(scale(1)) + only_weak(2);
}

static struct node node;

SEC("xdp")
int second(struct xdp_md *ctx)
{
	node.weight++;
	return node.weight + scale(2) + main_hits;
}
