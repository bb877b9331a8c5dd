// Variables in every data section, at non-zero offsets, and without an initial value.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

struct config {
	__u16 port;
	char name[6];
	__u64 limit;
};

enum level { LOW = 1, HIGH = 7 };

const volatile __u16 port = 443;
const volatile struct config config = { 80, "http", 1000 };
const volatile _Bool enabled = 1;
const volatile int limits[3] SEC(".rodata.limits") = { 1, 2, 3 };
volatile const enum level level = HIGH;

int counter = 5;
static volatile int hidden_counter = 9;
struct config current = { 1, "now", 2 };
int custom SEC(".data.custom") = 77;
__u64 not_percpu SEC(".data.percpu") = 3;

__u64 zeroed;
static volatile __u32 hidden_zeroed;
__u32 table[4];

int hits SEC(".percpu") = 11;
char tag SEC(".percpu") = 'x';
_Bool seen SEC(".percpu");
struct config per_cpu_config SEC(".percpu") = { 8080, "cpu", 9 };
__u32 histogram[8] SEC(".percpu.looooooooong") = { 1, 2, 3, 4 };

SEC("xdp")
int use(struct xdp_md *ctx)
{
	__u32 index = ctx->rx_queue_index & 3;

	counter += port + config.limit + limits[1] + level + enabled;
	hidden_counter++;
	hidden_zeroed += current.port;
	zeroed += custom + not_percpu;
	table[index]++;
	hits++;
	tag++;
	seen = 1;
	per_cpu_config.limit += histogram[index];
	return XDP_PASS;
}
