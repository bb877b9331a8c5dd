/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Opening, finding, setting, loading, data sections, descriptors. Run from the root of the repository. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "check.h"
#include "said.h"

#define DATA "crates/object/tests/c/data.bpf.o"
#define FIREWALL "examples/xdp_firewall.bpf.o"

static sigjmp_buf escape;

static void on_fault(int signal)
{
	siglongjmp(escape, signal);
}

/* Whether a write to the address faults. */
static bool is_read_only(volatile char *address)
{
	struct sigaction new_action, old_action;
	bool faulted = true;

	memset(&new_action, 0, sizeof(new_action));
	new_action.sa_handler = on_fault;
	sigaction(SIGSEGV, &new_action, &old_action);
	if (!sigsetjmp(escape, 1)) {
		*address = *address;
		faulted = false;
	}
	sigaction(SIGSEGV, &old_action, NULL);
	return faulted;
}

static int test_run(struct bpf_program *prog, __u32 *retval)
{
	static const char packet[64] = { 0 };
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = packet, .data_size_in = sizeof(packet));
	int err = bpf_prog_test_run_opts(bpf_program__fd(prog), &opts);

	*retval = opts.retval;
	return err;
}

static void null_is_an_error(void)
{
	char text[64];

	CHECK(!bpf_object__open(NULL) && errno == EINVAL);
	CHECK(!bpf_object__open_mem(NULL, 8, NULL) && errno == EINVAL);
	SAME(bpf_object__load(NULL), -EINVAL);
	bpf_object__close(NULL);
	CHECK(!bpf_object__name(NULL) && errno == EINVAL);
	CHECK(!bpf_object__find_map_by_name(NULL, "x") && errno == EINVAL);
	CHECK(!bpf_object__next_program(NULL, NULL) && !bpf_object__next_map(NULL, NULL));
	SAME(bpf_program__fd(NULL), -EINVAL);
	SAME(bpf_program__set_type(NULL, BPF_PROG_TYPE_XDP), -EINVAL);
	SAME(bpf_map__fd(NULL), -EINVAL);
	SAME(bpf_map__set_max_entries(NULL, 1), -EINVAL);
	SAME(bpf_map__lookup_elem(NULL, text, 4, text, 4, 0), -EINVAL);
	CHECK(!bpf_map__initial_value(NULL, NULL));
	SAME(bpf_prog_test_run_opts(0, NULL), -EINVAL);
	SAME(bpf_object__open_skeleton(NULL, NULL), -EINVAL);
	SAME(bpf_object__load_skeleton(NULL), -EINVAL);
	bpf_object__destroy_skeleton(NULL);
	bpf_object__detach_skeleton(NULL);
	SAME(bpf_object__open_subskeleton(NULL), -EINVAL);
	bpf_object__destroy_subskeleton(NULL);
	SAME(bpf_link__destroy(NULL), 0);
	CHECK(!ring_buffer__new(-1, NULL, NULL, NULL) && errno == EINVAL);
	ring_buffer__free(NULL);
	SAME(ring_buffer__poll(NULL, 0), -EINVAL);
	SAME(libbpf_strerror(EINVAL, NULL, 0), -EINVAL);
	SAME(libbpf_strerror(-ENOENT, text, sizeof(text)), 0);
	CHECK(!strcmp(text, "No such file or directory"));
	SAME(libbpf_strerror(LIBBPF_ERRNO__VERIFY, text, sizeof(text)), 0);
	SAME(libbpf_strerror(EPERM, text, 4), -ERANGE);
	CHECK(!strcmp(text, "Ope"));
	SAME(libbpf_strerror(123456, text, sizeof(text)), -ENOENT);
	SAME(bpf_map_get_info_by_fd(3, NULL, NULL), -EINVAL);
}

static void bad_files_are_refused(void)
{
	char junk[100] = "\177ELF but no more than that";
	LIBBPF_OPTS(bpf_object_open_opts, opts, .object_name = "junk");

	said[0] = 0;
	CHECK(!bpf_object__open_file("no/such/file.bpf.o", NULL) && errno == ENOENT);
	SAME(libbpf_get_error(NULL), -ENOENT);
	CHECK(strstr(said, "libskep: cannot read no/such/file.bpf.o: No such file"));
	CHECK(!bpf_object__open_file("examples", NULL) && errno == EINVAL);
	said[0] = 0;
	CHECK(!bpf_object__open_mem(junk, sizeof(junk), &opts) && errno == EINVAL);
	CHECK(strstr(said, "libskep: junk: "));
	opts.sz = 4;
	CHECK(!bpf_object__open_mem(junk, sizeof(junk), &opts) && errno == EINVAL);
}

static void objects_can_be_walked(void)
{
	LIBBPF_OPTS(bpf_object_open_opts, opts, .object_name = "mine");
	struct bpf_object *obj = bpf_object__open_file(FIREWALL, NULL);
	struct bpf_program *prog, *last = NULL;
	struct bpf_map *map;
	int programs = 0, maps = 0, back = 0;

	CHECK(obj && !strcmp(bpf_object__name(obj), "xdp_firewall"));
	SAME(libbpf_get_error(obj), 0);
	bpf_object__for_each_program(prog, obj) {
		programs++;
		last = prog;
	}
	SAME(programs, 1);
	CHECK(bpf_object__find_program_by_name(obj, "firewall") == last);
	CHECK(!bpf_object__find_program_by_name(obj, "wall") && errno == ENOENT);
	CHECK(!strcmp(bpf_program__name(last), "firewall") && !strcmp(bpf_program__section_name(last), "xdp"));
	SAME(bpf_program__type(last), BPF_PROG_TYPE_XDP);
	SAME(bpf_program__expected_attach_type(last), BPF_XDP);
	CHECK(bpf_program__insn_cnt(last) > 50 && bpf_program__insns(last));
	CHECK(bpf_program__autoload(last) && bpf_program__autoattach(last));
	SAME(bpf_program__fd(last), -ENOENT);
	bpf_object__for_each_map(map, obj)
		maps++;
	for (map = bpf_object__prev_map(obj, NULL); map; map = bpf_object__prev_map(obj, map))
		back++;
	SAME(maps, back);
	map = bpf_object__find_map_by_name(obj, "verdicts");
	CHECK(map && bpf_map__type(map) == BPF_MAP_TYPE_PERCPU_ARRAY && !bpf_map__is_internal(map));
	SAME(bpf_map__value_size(map), 8);
	SAME(bpf_map__fd(map), -1);
	SAME(bpf_object__find_map_fd_by_name(obj, "verdict"), -ENOENT);
	map = bpf_object__find_map_by_name(obj, ".rodata");
	CHECK(map && !strcmp(bpf_map__name(map), "xdp_fire.rodata") && bpf_map__is_internal(map));
	CHECK(bpf_object__find_map_by_name(obj, "xdp_fire.rodata") == map);
	bpf_object__close(obj);

	obj = bpf_object__open_file(FIREWALL, &opts);
	CHECK(obj && !strcmp(bpf_object__name(obj), "mine") && bpf_object__find_map_by_name(obj, "mine.rodata"));
	bpf_object__close(obj);
}

/* struct config and the sections of data.bpf.c. */
struct config {
	__u16 port;
	char name[6];
	__u64 limit;
};
struct percpu {
	int hits;
	char tag;
	struct config config;
	bool seen;
};

static void data_sections_are_memory(void)
{
	struct bpf_object *obj = bpf_object__open_file(DATA, NULL);
	struct bpf_program *use = bpf_object__find_program_by_name(obj, "use");
	struct bpf_map *data = bpf_object__find_map_by_name(obj, ".data");
	struct bpf_map *rodata = bpf_object__find_map_by_name(obj, ".rodata");
	struct bpf_map *percpu = bpf_object__find_map_by_name(obj, ".percpu");
	size_t data_size, rodata_size, percpu_size;
	char *value, *constants, *image, *copy, *mapped;
	struct percpu *initial, *all;
	__u32 zero = 0, retval;
	int before, fd, cpus = libbpf_num_possible_cpus();
	size_t stride;

	SAME(cpus, 2);
	value = (char *)bpf_map__initial_value(data, &data_size);
	constants = (char *)bpf_map__initial_value(rodata, &rodata_size);
	image = (char *)bpf_map__initial_value(percpu, &percpu_size);
	CHECK(value && constants && image && percpu_size > offsetof(struct percpu, seen));
	SAME(bpf_map__value_size(percpu), percpu_size);
	initial = (struct percpu *)image;
	SAME(initial->hits, 11);

	/* The whole value, or nothing. */
	copy = (char *)malloc(percpu_size);
	memcpy(copy, image, percpu_size);
	((struct percpu *)copy)->hits = 7;
	SAME(bpf_map__set_initial_value(percpu, copy, percpu_size - 1), -EINVAL);
	SAME(bpf_map__set_initial_value(percpu, NULL, percpu_size), -EINVAL);
	SAME(initial->hits, 11);
	SAME(bpf_map__set_initial_value(percpu, copy, percpu_size), 0);
	SAME(initial->hits, 7);
	initial->tag = 'p';

	memcpy(&before, value, 4);
	SAME(bpf_object__load(obj), 0);
	SAME(bpf_object__load(obj), -EINVAL);
	/* The same addresses, with what programs use behind them. */
	CHECK(bpf_map__initial_value(data, NULL) == value && bpf_map__initial_value(percpu, NULL) == image);
	SAME(initial->hits, 7);
	CHECK(is_read_only(image) && is_read_only(constants) && !is_read_only(value));
	SAME(bpf_map__set_initial_value(percpu, copy, percpu_size), -EBUSY);

	SAME(test_run(use, &retval), 0);
	copy = (char *)realloc(copy, data_size);
	SAME(bpf_map_lookup_elem(bpf_map__fd(data), &zero, copy), 0);
	CHECK(!memcmp(copy, value, data_size));
	/* A store through the pointer is what the program reads next: it adds to the counter. */
	memcpy(&before, value, 4);
	value[3] ^= 0x40;
	SAME(test_run(use, &retval), 0);
	CHECK((value[3] ^ (before >> 24)) & 0x40);

	/* The descriptor can be mapped; constants only to be read. */
	fd = bpf_map__fd(data);
	mapped = (char *)mmap(NULL, data_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(mapped != MAP_FAILED && !memcmp(mapped, value, data_size));
	mapped[3] ^= 1;
	CHECK(value[3] == mapped[3]);
	munmap(mapped, data_size);
	fd = bpf_map__fd(rodata);
	CHECK(mmap(NULL, rodata_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EPERM);
	mapped = (char *)mmap(NULL, rodata_size, PROT_READ, MAP_SHARED, fd, 0);
	CHECK(mapped != MAP_FAILED && !memcmp(mapped, constants, rodata_size));
	munmap(mapped, rodata_size);
	SAME(bpf_map_update_elem(fd, &zero, copy, 0), -EPERM);

	/* Each CPU has its own, all began with the image. */
	stride = (percpu_size + 7) / 8 * 8;
	all = (struct percpu *)calloc(cpus, stride);
	SAME(bpf_map__lookup_elem(percpu, &zero, 4, all, stride * cpus, 0), 0);
	for (int cpu = 0, total = 0; cpu < cpus; cpu++) {
		struct percpu *one = (struct percpu *)((char *)all + cpu * stride);

		SAME(one->tag - 'p', one->hits - 7);
		total += one->hits;
		if (cpu == cpus - 1)
			SAME(total, 7 * cpus + 2);
		SAME(bpf_map__lookup_elem(percpu, &zero, 4, copy = (char *)realloc(copy, percpu_size), percpu_size,
					  BPF_F_CPU | (__u64)cpu << 32),
		     0);
		SAME(((struct percpu *)copy)->hits, one->hits);
	}
	SAME(bpf_map__lookup_elem(percpu, &zero, 4, copy, percpu_size, BPF_F_CPU | (__u64)cpus << 32), -ERANGE);
	SAME(bpf_map__lookup_elem(percpu, &zero, 4, copy, percpu_size, 0), -EINVAL);
	SAME(bpf_map__update_elem(percpu, &zero, 4, copy, percpu_size, BPF_F_CPU | BPF_F_ALL_CPUS), -EINVAL);
	((struct percpu *)copy)->hits = 1000;
	SAME(bpf_map__update_elem(percpu, &zero, 4, copy, percpu_size, BPF_F_ALL_CPUS), 0);
	SAME(bpf_map_lookup_elem(bpf_map__fd(percpu), &zero, all), 0);
	for (int cpu = 0; cpu < cpus; cpu++)
		SAME(((struct percpu *)((char *)all + cpu * stride))->hits, 1000);
	SAME(initial->hits, 7);
	free(all);
	free(copy);
	bpf_object__close(obj);
}

static void choices_are_made_before_load(void)
{
	struct bpf_object *obj = bpf_object__open_file(FIREWALL, NULL);
	struct bpf_program *prog = bpf_object__find_program_by_name(obj, "firewall");
	struct bpf_map *map = bpf_object__find_map_by_name(obj, "verdicts");
	char log[96] = ""; /* for the end of it */
	__u32 entries = bpf_map__max_entries(map);

	SAME(bpf_map__set_max_entries(map, entries + 3), 0);
	SAME(bpf_program__set_log_buf(prog, log, 0), -EINVAL);
	SAME(bpf_program__set_log_buf(prog, log, sizeof(log)), 0);
	SAME(bpf_program__set_log_level(prog, 1 | 4), 0);
	SAME(bpf_object__load(obj), 0);
	SAME(bpf_map__max_entries(map), entries + 3);
	CHECK(strlen(log) == sizeof(log) - 1 && strstr(log, " total_states "));
	SAME(bpf_map__set_max_entries(map, 1), -EBUSY);
	SAME(bpf_map__set_value_size(map, 1), -EBUSY);
	SAME(bpf_map__set_autocreate(map, false), -EBUSY);
	SAME(bpf_program__set_type(prog, BPF_PROG_TYPE_SCHED_CLS), -EBUSY);
	SAME(bpf_program__set_autoload(prog, false), -EINVAL);
	SAME(bpf_program__set_log_level(prog, 1), -EBUSY);
	bpf_object__close(obj);

	/* A program of another type is another program. */
	obj = bpf_object__open_file(FIREWALL, NULL);
	prog = bpf_object__find_program_by_name(obj, "firewall");
	SAME(bpf_program__set_type(prog, (enum bpf_prog_type)12345), -EINVAL);
	SAME(bpf_program__set_type(prog, BPF_PROG_TYPE_SYSCALL), 0);
	SAME(bpf_program__type(prog), BPF_PROG_TYPE_SYSCALL);
	said[0] = 0;
	CHECK(bpf_object__load(obj) < 0);
	CHECK(strstr(said, "program 'firewall' was rejected") && strstr(said, "begin of the verifier's log"));
	SAME(bpf_program__fd(prog), -ENOENT);
	SAME(bpf_object__load(obj), -EINVAL);
	bpf_object__close(obj);

	/* Without its map a program does not load, and without the program the rest does. */
	obj = bpf_object__open_file(FIREWALL, NULL);
	prog = bpf_object__find_program_by_name(obj, "firewall");
	map = bpf_object__find_map_by_name(obj, "verdicts");
	SAME(bpf_map__set_autocreate(map, false), 0);
	SAME(bpf_program__set_autoload(prog, false), 0);
	SAME(bpf_object__load(obj), 0);
	SAME(bpf_map__fd(map), -1);
	SAME(bpf_map__lookup_elem(map, &entries, 4, log, 16, 0), -ENOENT);
	SAME(bpf_program__fd(prog), -ENOENT);
	bpf_object__close(obj);
}

static void descriptors_are_files(void)
{
	struct bpf_object *obj = bpf_object__open_file(FIREWALL, NULL), *other;
	struct bpf_map *map, *reused;
	struct bpf_program *prog;
	struct bpf_map_info info;
	struct bpf_prog_info prog_info;
	__u32 len = sizeof(info), id = 0, ids[8];
	__u64 values[2];
	int fd, copy, found, key = 0;

	SAME(bpf_object__load(obj), 0);
	map = bpf_object__find_map_by_name(obj, "verdicts");
	prog = bpf_object__find_program_by_name(obj, "firewall");
	fd = bpf_map__fd(map);
	CHECK(fd > 2 && fcntl(fd, F_GETFD) == FD_CLOEXEC);
	SAME(bpf_object__find_map_fd_by_name(obj, "verdicts"), fd);
	SAME(bpf_map_lookup_elem(fd, &key, values), 0);
	SAME(bpf_map_lookup_elem(-1, &key, values), -EBADF);
	SAME(bpf_map_lookup_elem(0, &key, values), -EBADF);
	SAME(bpf_map_lookup_elem(10000, &key, values), -EBADF);
	SAME(bpf_map_lookup_elem(bpf_program__fd(prog), &key, values), -EINVAL);
	SAME(bpf_map_lookup_elem(fd, NULL, values), -EFAULT);
	SAME(bpf_map_lookup_elem(fd, &key, NULL), -EFAULT);
	SAME(bpf_map_update_elem(fd, &key, NULL, 0), -EFAULT);

	memset(&info, 0, sizeof(info));
	SAME(bpf_map_get_info_by_fd(fd, &info, &len), 0);
	CHECK(!strcmp(info.name, "verdicts") && info.type == BPF_MAP_TYPE_PERCPU_ARRAY && info.value_size == 8);
	memset(&prog_info, 0, sizeof(prog_info));
	len = sizeof(prog_info);
	prog_info.nr_map_ids = 8;
	prog_info.map_ids = (__u64)(unsigned long)ids;
	SAME(bpf_obj_get_info_by_fd(bpf_program__fd(prog), &prog_info, &len), 0);
	CHECK(!strcmp(prog_info.name, "firewall") && prog_info.xlated_prog_len > 400 && prog_info.nr_map_ids >= 2);
	for (key = 0, found = 0; key < (int)prog_info.nr_map_ids; key++)
		found += ids[key] == info.id;
	SAME(found, 1);
	for (found = 0; !bpf_map_get_next_id(id, &id);)
		found += id == info.id;
	SAME(found, 1);
	SAME(errno, ENOENT);

	/* Another object uses this object's map; it lives on after this one is closed. */
	key = 0;
	values[0] = values[1] = 5;
	SAME(bpf_map_update_elem(fd, &key, values, 0), 0);
	copy = dup(fd);
	other = bpf_object__open_file(FIREWALL, NULL);
	reused = bpf_object__find_map_by_name(other, "verdicts");
	SAME(bpf_map__reuse_fd(reused, bpf_program__fd(prog)), -EINVAL);
	SAME(bpf_map__reuse_fd(reused, copy), 0);
	close(copy);
	SAME(bpf_object__load(other), 0);
	bpf_object__close(obj);
	SAME(bpf_map_lookup_elem(fd, &key, values), -EBADF);
	SAME(bpf_map__lookup_elem(reused, &key, 4, values, 16, 0), 0);
	SAME(values[0] + values[1], 10);
	copy = dup(bpf_map__fd(reused));
	bpf_object__close(other);
	SAME(bpf_map_lookup_elem(copy, &key, values), 0);
	close(copy);

	/* Made and closed by hand; the numbers are used again, and old meanings are gone. */
	for (found = 0; found < 200; found++) {
		fd = bpf_map_create(BPF_MAP_TYPE_HASH, "by_hand", 4, 8, 10, NULL);
		CHECK(fd > 2);
		SAME(bpf_map_update_elem(fd, &key, values, BPF_NOEXIST), 0);
		close(fd);
		SAME(bpf_map_lookup_elem(fd, &key, values), -EBADF);
	}
	for (id = 0, found = 0; !bpf_map_get_next_id(id, &id);)
		found++;
	CHECK(found < 100);
	SAME(bpf_map_get_fd_by_id(0x7fffffff), -ENOENT);
	SAME(bpf_map_create(BPF_MAP_TYPE_HASH, "none", 0, 8, 10, NULL), -EINVAL);
	SAME(bpf_map_create((enum bpf_map_type)1000, "none", 4, 8, 10, NULL), -EINVAL);
}

int main(void)
{
	LIBBPF_OPTS(skep_opts, opts, .vcpus = 2);
	libbpf_print_fn_t before;

	SAME(skep_configure(&opts), 0);
	before = libbpf_set_print(listen);
	CHECK(before && libbpf_set_print(listen) == listen);
	null_is_an_error();
	bad_files_are_refused();
	objects_can_be_walked();
	data_sections_are_memory();
	SAME(skep_configure(&opts), -EBUSY);
	choices_are_made_before_load();
	descriptors_are_files();
	printf("ok\n");
	return 0;
}
