// Variables of every simple kind in two .percpu sections, at offsets that are not zero, beside ordinary data sections.
// Built by build.sh three times: as it is, with volatile variables, and without optimisation.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#ifndef VOLATILE
#define VOLATILE
#endif

char LICENSE[] SEC("license") = "GPL";

struct sample {
	char tag;
	int count;
	__u64 total;
};

// `first` keeps the others away from offset 0.
VOLATILE int first SEC(".percpu") = 1;
VOLATILE char letter SEC(".percpu") = 'a';
VOLATILE _Bool seen SEC(".percpu");
VOLATILE int number SEC(".percpu") = -5;
VOLATILE int numbers[3] SEC(".percpu") = { 10, 20, 30 };
VOLATILE struct sample sample SEC(".percpu") = { 's', 7, 1000 };

VOLATILE __u64 zero SEC(".percpu.more");
VOLATILE char more_letters[5] SEC(".percpu.more") = "abcd";
VOLATILE _Bool more_seen SEC(".percpu.more") = 1;
VOLATILE int more_number SEC(".percpu.more") = 77;
VOLATILE struct sample more_samples[2] SEC(".percpu.more") = { { 'x', 1, 2 }, { 'y', 3, 4 } };

// An ordinary data section, whatever its name looks like: one copy for all CPUs.
VOLATILE int shared SEC(".data.percpu") = 500;
VOLATILE __u64 runs;

// Each variable changes by what shows who changed it: the first argument, of one CPU's run.
SEC("raw_tp")
int touch(__u64 *ctx)
{
	int by = ctx[0] & 0xff;
	int at = ctx[0] & 1;

	first += by;
	letter++;
	seen = 1;
	number -= by;
	numbers[1] += by;
	numbers[at] += 1;
	sample.tag++;
	sample.count += by;
	sample.total += 1000 * by;

	zero += by;
	more_letters[3] = 'D';
	more_seen = 0;
	more_number ^= by;
	more_samples[1].tag = 'z';
	more_samples[at].total += by;

	__sync_fetch_and_add(&shared, by);
	__sync_fetch_and_add(&runs, 1);
	return first;
}
