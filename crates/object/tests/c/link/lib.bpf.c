// The half that has the library: functions, a map, data.
#include "shared.h"

char LICENSE[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct limits);
} shared_map SEC(".maps");

int lib_target(struct xdp_md *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 2);
	__uint(key_size, sizeof(__u32));
	__array(values, int(struct xdp_md *));
} jumps SEC(".maps") = { .values = { [1] = &lib_target } };

int lib_counter = 50;
const volatile int lib_limit = 3;
int lib_hits PERCPU("") = 20;
char lib_letter PERCPU(".letters") = 'l';
// Of the same name as in main.bpf.c, and another.
static volatile int hidden = 11;
__u32 lib_table[3];

struct node lib_node;

__noinline int add(int a, int b)
{
	return a + b + hidden;
}

int chosen(int x)
{
	return x + 1;
}

__weak int only_weak(int x)
{
	return x + 40;
}

static __noinline int scale(int x)
{
	return x * 5 - hidden;
}

SEC("xdp")
int lib_target(struct xdp_md *ctx)
{
	static volatile const char text[] = "a constant of the library";

	lib_node.weight++;
	lib_table[ctx->rx_queue_index & 1]++;
	lib_letter++;
	return scale(10) + text[ctx->rx_queue_index & 15];
}

SEC("tc")
int lib_tail(struct __sk_buff *ctx)
{
	return ctx->mark;
}
