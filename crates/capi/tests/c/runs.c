/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Test runs with every kind of buffer, and the ring buffer's consumer. Nothing in here is libskep's own: the same source
 * prints the same with libbpf on a kernel.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

static unsigned char packet[60] = { 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00, 0x45, 0, 0, 46, 0, 1, 0, 0, 64, 17, 0, 0,
				    10, 0, 0, 1, 10, 0, 0, 2, 0x10, 0, 0, 53, 0, 26 };
static int seen, stop_after = 1000;

static int on_record(void *ctx, void *data, size_t size)
{
	(void)data;
	printf("record %d of %zu bytes, ctx %s\n", seen, size, (const char *)ctx);
	return ++seen >= stop_after ? -EAGAIN : 0;
}

static void run(int fd, const char *what, struct bpf_test_run_opts *opts)
{
	int err = bpf_prog_test_run_opts(fd, opts);

	printf("%s: %d retval %u data %u ctx %u\n", what, err, opts->retval, opts->data_size_out, opts->ctx_size_out);
}

static void xdp(void)
{
	struct bpf_object *obj = bpf_object__open_file("examples/xdp_firewall.bpf.o", NULL);
	struct bpf_program *prog = bpf_object__find_program_by_name(obj, "firewall");
	unsigned char out[128];
	struct xdp_md ctx_in, ctx_out;
	int fd;

	printf("load: %d\n", bpf_object__load(obj));
	fd = bpf_program__fd(prog);
	memset(&ctx_in, 0, sizeof(ctx_in));
	{
		LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = packet, .data_size_in = sizeof(packet));
		run(fd, "no room wanted", &opts);
	}
	{
		LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = packet, .data_out = out, .data_size_in = sizeof(packet),
			    .data_size_out = sizeof(out), .repeat = 3);
		run(fd, "room", &opts);
	}
	{
		LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = packet, .data_out = out, .data_size_in = sizeof(packet),
			    .data_size_out = 20);
		memset(out, 0xee, sizeof(out));
		run(fd, "too little room", &opts);
		printf("kept %d, left alone %d\n", !memcmp(out, packet, 20), out[20] == 0xee);
	}
	{
		LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = packet, .data_size_in = 13);
		run(fd, "short packet", &opts);
	}
	{
		LIBBPF_OPTS(bpf_test_run_opts, opts, .data_size_in = 60);
		run(fd, "no packet", &opts);
	}
	{
		LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = packet, .data_size_in = sizeof(packet), .ctx_in = &ctx_in,
			    .ctx_out = &ctx_out, .ctx_size_in = sizeof(ctx_in), .ctx_size_out = sizeof(ctx_out));
		ctx_in.data_end = sizeof(packet);
		run(fd, "context", &opts);
		printf("data %u data_end %u\n", ctx_out.data, ctx_out.data_end);
		opts.ctx_size_out = 8;
		run(fd, "too little room for the context", &opts);
		opts.ctx_size_in = 0;
		run(fd, "a context without size", &opts);
	}
	{
		LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = packet, .data_size_in = sizeof(packet), .batch_size = 1);
		run(fd, "batch", &opts);
	}
	bpf_object__close(obj);
	{
		LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = packet, .data_size_in = sizeof(packet));
		run(fd, "closed", &opts);
		run(-1, "none", &opts);
	}
}

static void skb(void)
{
	struct bpf_object *obj = bpf_object__open_file("examples/tc_flows.bpf.o", NULL);
	struct bpf_program *prog = bpf_object__find_program_by_name(obj, "count_flows");
	struct bpf_map *flows = bpf_object__find_map_by_name(obj, "new_flows");
	struct ring_buffer *records;
	struct __sk_buff ctx_in, ctx_out;
	struct pollfd event;
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = packet, .data_size_in = sizeof(packet));

	printf("load: %d\n", bpf_object__load(obj));
	records = ring_buffer__new(bpf_map__fd(flows), on_record, (void *)"first", NULL);
	event.fd = ring_buffer__epoll_fd(records);
	event.events = POLLIN;
	printf("ready %d\n", poll(&event, 1, 0));
	printf("consumed %d\n", ring_buffer__poll(records, 10));
	for (int port = 1; port <= 5; port++) {
		packet[35] = port;
		run(bpf_program__fd(prog), "flow", &opts);
	}
	printf("ready %d\n", poll(&event, 1, 0));
	stop_after = 2;
	printf("consumed %d\n", ring_buffer__consume(records));
	printf("ready %d\n", poll(&event, 1, 0));
	stop_after = 1000;
	printf("consumed %d\n", ring_buffer__poll(records, -1));
	printf("ready %d\n", poll(&event, 1, 0));
	packet[35] = 77;
	run(bpf_program__fd(prog), "flow", &opts);
	printf("ready %d\n", poll(&event, 1, 0));
	printf("consumed %d\n", ring_buffer__poll(records, 1000));
	printf("not a ring: %d\n", ring_buffer__add(records, bpf_object__find_map_fd_by_name(obj, "flows"), on_record, NULL));
	ring_buffer__free(records);

	memset(&ctx_in, 0, sizeof(ctx_in));
	memset(&ctx_out, 0, sizeof(ctx_out));
	ctx_in.mark = 7;
	ctx_in.priority = 9;
	opts.ctx_in = &ctx_in;
	opts.ctx_size_in = sizeof(ctx_in);
	opts.ctx_out = &ctx_out;
	opts.ctx_size_out = sizeof(ctx_out);
	run(bpf_program__fd(prog), "context", &opts);
	printf("priority %u mark %u\n", ctx_out.priority, ctx_out.mark);
	ctx_in.len = 5;
	run(bpf_program__fd(prog), "a field that cannot be given", &opts);
	ctx_in.len = 0;
	opts.cpu = 1;
	run(bpf_program__fd(prog), "a CPU", &opts);
	bpf_object__close(obj);
}

int main(void)
{
	libbpf_set_print(NULL);
	xdp();
	skb();
	return 0;
}
