// What both halves know of each other.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct flow;
struct node {
	struct node *next;
	struct flow *flow;
	int weight;
};

struct limits {
	__u32 low;
	__u32 high;
};

// Compiled as ordinary data where the loader knows no per-CPU sections.
#ifdef NO_PERCPU
#define PERCPU(rest) SEC(".data.percpu" rest)
#else
#define PERCPU(rest) SEC(".percpu" rest)
#endif
